//! Mail servers that pass a message on: what each is given, and how long it takes.

use testkit::exim::Exim;
use testkit::opensmtpd::OpenSmtpd;
use testkit::postfix::Postfix;
use testkit::{Client, debian};

use crate::client::{Mail, program};

pub fn postfix(mail: &Mail<'_>) -> String {
    let postfix = Postfix::start(mail.server, "");
    let replies = submit(mail, &mut Client::connect(postfix.address()));
    postfix.until_queue_is_empty();
    replies + &postfix.log()
}

pub fn exim(mail: &Mail<'_>) -> String {
    let exim = Exim::new(mail.server.port());
    let replies = submit(mail, &mut exim.connect());
    exim.run_queue();
    replies + &exim.log()
}

pub fn opensmtpd(mail: &Mail<'_>) -> String {
    let opensmtpd = OpenSmtpd::start(mail.server);
    let replies = submit(mail, &mut Client::connect(opensmtpd.address()));
    opensmtpd.until_queue_is_empty();
    replies + &opensmtpd.log()
}

pub fn nullmailer(mail: &Mail<'_>) -> String {
    let mut shell = debian::laid_over(&["nullmailer"], mail.folder);
    shell.arg("sh").arg(program("nullmailer.sh"));
    mail.feed_program(shell)
}

pub fn dma(mail: &Mail<'_>) -> String {
    let mut shell = debian::laid_over(&["dma"], mail.folder);
    shell.arg("sh").arg(program("dma.sh"));
    mail.feed_program(shell)
}

/// Gives the message to a relay; its replies.
fn submit(mail: &Mail<'_>, relay: &mut Client) -> String {
    let mut commands = vec!["EHLO client.example".to_owned(), format!("MAIL FROM:<{}> BODY=8BITMIME", mail.sender)];
    commands.extend(mail.recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>")));
    commands.push("DATA".to_owned());
    let mut replies = vec![relay.reply()];
    replies.extend(commands.iter().map(|command| relay.ask(command)));
    relay.send(stuffed(&mail.message));
    replies.push(relay.ask("."));
    replies.push(relay.ask("QUIT"));
    replies.join("\n")
}

/// A message as it is sent: with a second dot in front of lines that begin with one, and an end behind the last line.
fn stuffed(message: &str) -> String {
    let stuffed = format!("\r\n{message}").replace("\r\n.", "\r\n..");
    let end = if stuffed.ends_with("\r\n") { "" } else { "\r\n" };
    format!("{}{end}", &stuffed["\r\n".len()..])
}
