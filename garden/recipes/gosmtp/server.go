// A server on go-smtp: what the library hands over goes to Maildirs.
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"
)

type backend struct{ domain string }

func (backend) Login(*smtp.ConnectionState, string, string) (smtp.Session, error) {
	return nil, smtp.ErrAuthUnsupported
}

func (backend backend) AnonymousLogin(*smtp.ConnectionState) (smtp.Session, error) {
	return &session{domain: backend.domain}, nil
}

type session struct {
	domain string
	users  []string
}

func (session *session) Reset()                             { session.users = nil }
func (session *session) Logout() error                      { return nil }
func (session *session) Mail(string, smtp.MailOptions) error { return nil }

func (session *session) Rcpt(to string) error {
	to = strings.ToLower(to)
	for _, user := range []string{"user1", "user2"} {
		if to == user+"@"+session.domain {
			session.users = append(session.users, user)
			return nil
		}
	}
	return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "No such user"}
}

var number int64

func (session *session) Data(reader io.Reader) error {
	message, err := io.ReadAll(reader)
	if err != nil {
		return err
	}
	for _, user := range session.users {
		name := fmt.Sprintf("%d.garden", atomic.AddInt64(&number, 1))
		maildir := "/home/" + user + "/Maildir"
		if err := os.WriteFile(maildir+"/tmp/"+name, message, 0600); err != nil {
			return err
		}
		if err := os.Rename(maildir+"/tmp/"+name, maildir+"/new/"+name); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	server := smtp.NewServer(backend{os.Args[2]})
	server.Addr, server.Domain = os.Args[1], os.Args[2]
	server.AuthDisabled = true
	server.ReadTimeout, server.WriteTimeout = time.Minute, time.Minute
	server.MaxMessageBytes, server.MaxRecipients = 50_000_000, 100
	log.Fatal(server.ListenAndServe())
}
