// Go's net/smtp: HOST PORT SENDER RECIPIENT..., the message on standard input.
package main

import (
	"io"
	"log"
	"net/smtp"
	"os"
)

func main() {
	message, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	server := os.Args[1] + ":" + os.Args[2]
	if err := smtp.SendMail(server, nil, os.Args[3], os.Args[4:], message); err != nil {
		log.Fatal(err)
	}
}
