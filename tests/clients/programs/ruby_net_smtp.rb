# Ruby's net-smtp: HOST PORT SENDER RECIPIENT..., the message on standard input.
require 'net/smtp'

host, port, sender, *recipients = ARGV
message = $stdin.binmode.read
Net::SMTP.start(host, port.to_i, helo: 'client.example') do |smtp|
  smtp.send_message(message, sender, *recipients)
end
