//! Every reply there is, with its code (RFC 5321, 4.2) and enhanced code (RFC 3463).
//!
//! A reply carries nothing the peer sent, except in [`Reply::subject`], which goes to the log only, and in what the next
//! server says of it, of which only what can be printed in ASCII is left ([`passed_on`](super::upstream::passed_on)).

mod wire;

use std::borrow::Cow;

use base64ct::{Base64, Encoding};
use wire::fixed;
pub use wire::{NotAReply, Reply, Status};

use super::NOT_SHOWN;
use super::auth::Mechanism;
use super::command::{NOT_IMPLEMENTED, SyntaxError, VERBS, Verb};
use crate::address::AddressError;
use crate::config::{LineName, Protocol, Refusal};
use crate::peer::Peer;

fn reply(code: u16, status: Status, text: impl Into<Cow<'static, str>>) -> Reply {
    Reply { text: text.into(), ..fixed(code, Some(status), "") }
}

fn without_status(code: u16, text: String) -> Reply {
    Reply { text: text.into(), ..fixed(code, None, "") }
}

// Opening and closing.

/// The first line of a session.
pub fn greeting(domain: &str, protocol: Protocol) -> Reply {
    let spoken = match protocol {
        Protocol::Smtp => "ESMTP (RFC 821/822)",
        Protocol::Lmtp => "LMTP (RFC 2033)",
    };
    without_status(220, format!("{domain} {spoken} mailrecv"))
}

/// We cannot serve anybody now.
pub fn cannot_serve(cause: String) -> Reply {
    let reply = reply(421, Status(4, 3, 5), "Cannot receive messages at this time, try again later").because(cause);
    Reply { precedes_hello: true, ..reply }
}

/// Why we cannot serve anybody at the port of SMTP, where whoever speaks that could not tell.
pub const LMTP_ON_PORT_25: &str = "LMTP is not for port 25, which is SMTP's (RFC 2033, section 5)";

/// To peers beyond what `listen` may serve at once.
pub fn too_busy() -> Reply {
    Reply { precedes_hello: true, ..reply(421, Status(4, 7, 0), "Too many connections, try again later") }
}

/// The answer to HELO.
pub fn hello(domain: &str, peer: &Peer) -> Reply {
    without_status(250, format!("{domain} Hello {peer}"))
}

/// What is offered beyond RFC 5321, of that which is not always the same.
#[derive(Debug, Clone, Copy)]
pub struct Extensions<'m> {
    /// The most octets of a message; 0 is "no limit" (RFC 1870, section 4).
    pub size: u64,
    /// Whether commands may have characters beyond ASCII (RFC 6531).
    pub utf8: bool,
    /// Whether TLS may begin (RFC 3207).
    pub tls: bool,
    /// By what the peer may log in (RFC 4954).
    pub auth: &'m [Mechanism],
}

/// The answer to EHLO and LHLO: what we can do beyond RFC 5321.
pub fn extended_hello(protocol: Protocol, domain: &str, peer: &Peer, extensions: Extensions<'_>) -> Reply {
    let Extensions { size, utf8, tls, auth } = extensions;
    let chunking = if protocol == Protocol::Smtp { "CHUNKING\n" } else { "" };
    let smtputf8 = if utf8 { "SMTPUTF8\n" } else { "" };
    let starttls = if tls { "STARTTLS\n" } else { "" };
    let mechanisms: String = auth.iter().flat_map(|mechanism| [" ", mechanism.name()]).collect();
    let auth = if auth.is_empty() { String::new() } else { format!("AUTH{mechanisms}\n") };
    let extensions =
        format!("PIPELINING\nSIZE {size}\n8BITMIME\nENHANCEDSTATUSCODES\n{chunking}{smtputf8}{starttls}{auth}HELP");
    without_status(250, format!("{domain} Hello {peer}\n{extensions}"))
}

/// The answer to QUIT.
pub fn bye(domain: &str) -> Reply {
    reply(221, Status(2, 0, 0), format!("{domain} closing connection"))
}

/// When we are told to stop.
pub fn shutting_down(domain: &str) -> Reply {
    reply(421, Status(4, 3, 2), format!("{domain} is shutting down, try again later"))
}

/// When something in this program is broken.
pub fn internal_fault(domain: &str) -> Reply {
    reply(421, Status(4, 3, 0), format!("{domain} internal fault, try again later"))
}

/// To a peer that the `remotehost` rules keep out.
pub fn peer_refused(peer: &Peer) -> Reply {
    reply(550, Status(5, 7, 1), format!("Cannot receive messages from {peer} at this time."))
}

/// To something that speaks another protocol.
pub fn other_protocol(protocol: Protocol) -> Reply {
    reply(500, Status(5, 5, 2), format!("This is a mail server, it speaks {protocol} only"))
}

/// To a proxy whose header nobody asked for. The mistake is in a configuration, and to ban the proxy for it would shut out
/// all who come through it.
pub fn proxy_not_named() -> Reply {
    cannot_serve("the PROXY protocol, from a peer that no `proxy_protocol from` line names".to_owned())
}

/// To the clients of a proxy whose connection does not begin with its header.
pub fn no_proxy_header(why: &str) -> Reply {
    cannot_serve(format!("no header of the PROXY protocol from this proxy: {why}"))
}

/// A pattern of the configuration does not compile.
pub fn broken_pattern(line: LineName<'_>, message: &str) -> Reply {
    cannot_serve(format!("{}: {message}", line.of_the_configuration()))
}

// Commands.

/// RSET and NOOP.
pub const OK: Reply = fixed(250, Some(Status(2, 0, 0)), "OK");
/// MAIL was accepted.
pub const SENDER_OK: Reply = fixed(250, Some(Status(2, 1, 0)), "Sender ok");
/// RCPT was accepted.
pub const RECIPIENT_OK: Reply = fixed(250, Some(Status(2, 1, 5)), "Recipient ok");
/// DATA was accepted.
pub const START_INPUT: Reply = fixed(354, None, "Start mail input; end with <CRLF>.<CRLF>");

/// A chunk has come, and others follow.
pub fn chunk_received(octets: u64) -> Reply {
    reply(250, Status(2, 0, 0), format!("{octets} octets received"))
}

/// The message is safe at every destination, in LMTP at those of one recipient.
pub fn accepted(id: &str) -> Reply {
    reply(250, Status(2, 0, 0), format!("Message accepted for delivery, id={id}"))
}

/// The message is there already: it has come before, and got this name then.
pub fn accepted_before(id: &str) -> Reply {
    reply(250, Status(2, 0, 0), format!("Message accepted for delivery before, id={id}"))
}

/// VRFY is never answered with what exists (RFC 5321, 3.5.3).
pub const VERIFY: Reply = fixed(252, Some(Status(2, 1, 5)), "Cannot verify, send some mail and see");

/// HELP: every verb that this protocol has, but STARTTLS and AUTH only where they are offered.
pub fn help(protocol: Protocol, offers_tls: bool, offers_auth: bool) -> Reply {
    let mut text = "Commands:\n".to_owned();
    let mut width = 0;
    let is_shown = |verb: &&Verb| {
        verb.is_of(protocol)
            && match verb.name {
                "STARTTLS" => offers_tls,
                "AUTH" => offers_auth,
                _ => true,
            }
    };
    for (number, verb) in VERBS.iter().filter(is_shown).enumerate() {
        let separator = match number {
            0 => "",
            _ if width + verb.form.len() > HELP_WIDTH => ",\n",
            _ => ", ",
        };
        width = if separator.ends_with('\n') { 0 } else { width } + separator.len() + verb.form.len();
        text.push_str(separator);
        text.push_str(verb.form);
    }
    text.push_str("\nNot implemented: ");
    text.push_str(&NOT_IMPLEMENTED.join(", "));
    reply(214, Status(2, 0, 0), text)
}

/// STARTTLS: the handshake may begin (RFC 3207, section 4).
pub const READY_FOR_TLS: Reply = fixed(220, Some(Status(2, 0, 0)), "Ready to start TLS");

/// STARTTLS, or a command that has to wait for it, when certificate or key cannot be used.
pub fn tls_not_available(cause: impl Into<String>) -> Reply {
    Reply { is_our_fault: true, ..reply(454, Status(4, 7, 0), "TLS is not available now, try again later") }
        .because(cause)
}

/// STARTTLS under TLS.
pub const TLS_IS_ON: Reply = fixed(503, Some(Status(5, 5, 1)), "The connection is under TLS already");

/// A command that has to wait for TLS (RFC 3207, section 4).
pub const TLS_REQUIRED: Reply = fixed(530, Some(Status(5, 7, 0)), "Must issue a STARTTLS command first");

/// AUTH: a challenge of the exchange (RFC 4954, section 4).
pub fn challenge(challenge: &str) -> Reply {
    without_status(CHALLENGE, Base64::encode_string(challenge.as_bytes()))
}

/// The code of a challenge, whose text a log must not have: from what it says a password could be guessed.
pub const CHALLENGE: u16 = 334;

/// AUTH: the peer has shown who it is.
pub const AUTHENTICATED: Reply = fixed(235, Some(Status(2, 7, 0)), "Authentication succeeded");

/// AUTH: it has not. `is_last` if it has tried often enough.
pub fn not_authenticated(is_last: bool) -> Reply {
    let text = match is_last {
        true => "Authentication failed too often",
        false => "Authentication failed: wrong name or password",
    };
    reply(535, Status(5, 7, 8), text)
}

/// AUTH, when the accounts cannot be read.
pub fn cannot_authenticate(cause: impl Into<String>) -> Reply {
    Reply { is_our_fault: true, ..reply(454, Status(4, 7, 0), "Cannot authenticate anybody now, try again later") }
        .because(cause)
}

/// The peer has ended the exchange with `*`.
pub const AUTHENTICATION_CANCELLED: Reply = fixed(501, Some(Status(5, 7, 0)), "Authentication cancelled");

/// What the peer sent is no base64, or no response of the mechanism.
pub fn not_a_response() -> Reply {
    reply(501, Status(5, 5, 2), "Not a response of this mechanism in base64").because(NOT_SHOWN)
}

/// A response that does not end within its limit.
pub const RESPONSE_TOO_LONG: Reply = fixed(500, Some(Status(5, 5, 6)), "Authentication exchange line is too long");

/// AUTH without the name of a mechanism, or with more than one response.
pub fn auth_syntax() -> Reply {
    reply(501, Status(5, 5, 4), "Write AUTH mechanism, or AUTH mechanism response").because(NOT_SHOWN)
}

/// AUTH with a mechanism that is not offered.
pub const NO_SUCH_MECHANISM: Reply = fixed(504, Some(Status(5, 5, 4)), "Unrecognized authentication type");

/// AUTH in the clear.
pub const TLS_REQUIRED_FOR_AUTH: Reply =
    fixed(538, Some(Status(5, 7, 11)), "Encryption required for requested authentication mechanism");

/// MAIL of somebody who has to log in first.
pub const AUTHENTICATION_REQUIRED: Reply = fixed(530, Some(Status(5, 7, 0)), "Authentication required");

/// Commands that we know and do not carry out.
pub const COMMAND_NOT_IMPLEMENTED: Reply = fixed(502, Some(Status(5, 5, 1)), "Command not implemented");

/// To a peer that sends a field of a header where a command belongs. The session ends with it.
pub const FIELD_IS_NO_COMMAND: Reply =
    fixed(500, Some(Status(5, 5, 2)), "A line of a message or of another protocol, where a command belongs");

/// No command at all.
pub const UNKNOWN_COMMAND: Reply = fixed(500, Some(Status(5, 5, 2)), "Unknown command");

/// HELO or EHLO where LMTP is spoken, or LHLO where SMTP is (RFC 2033, 4.1).
pub fn other_hello(protocol: Protocol) -> Reply {
    let text = match protocol {
        Protocol::Smtp => "This is SMTP, LHLO is for LMTP: say EHLO or HELO",
        Protocol::Lmtp => "This is LMTP: say LHLO in place of HELO or EHLO",
    };
    Reply { precedes_hello: true, ..reply(500, Status(5, 5, 1), text) }
}

/// MAIL before the peer has introduced itself.
pub fn missing_hello(protocol: Protocol) -> Reply {
    bad_sequence(match protocol {
        Protocol::Smtp => "missing HELO or EHLO",
        Protocol::Lmtp => "missing LHLO",
    })
}

/// A line with nothing in it: nothing to ban a peer for. The PROXY protocol, version 2, begins with two of them.
pub fn empty_line() -> Reply {
    Reply { is_echo: true, ..reply(500, Status(5, 5, 2), "Empty line") }
}

/// A line that does not end within its limit.
pub const LINE_TOO_LONG: Reply = fixed(500, Some(Status(5, 5, 2)), "Line too long");

/// Commands in an order that makes no sense.
pub fn bad_sequence(missing: &'static str) -> Reply {
    reply(503, Status(5, 5, 1), format!("Bad sequence of commands -- {missing}"))
}

/// A command of a transaction whose MAIL or RCPT was refused; a peer that pipelines had sent it before it could know
/// (RFC 2920, section 3.1).
pub fn behind_refused(refused: &'static str) -> Reply {
    Reply { is_echo: true, ..reply(503, Status(5, 5, 1), format!("Bad sequence of commands -- {refused} was refused")) }
}

/// A command that cannot be parsed. `ascii` is what the administrator says to bytes beyond ASCII.
pub fn syntax_error(error: SyntaxError, ascii: &Refusal, protocol: Protocol) -> Reply {
    match error {
        SyntaxError::ControlCharacter => CONTROL_CHARACTER,
        SyntaxError::NotText => worded(ascii, Status(5, 5, 2)),
        SyntaxError::HelloName => reply(
            501,
            Status(5, 5, 4),
            match protocol {
                Protocol::Smtp => "Say HELO or EHLO with your host name or address",
                Protocol::Lmtp => "Say LHLO with your host name or address",
            },
        ),
        SyntaxError::UnexpectedArgument => reply(501, Status(5, 5, 4), "This command has no argument"),
        SyntaxError::MissingArgument => reply(501, Status(5, 5, 4), "This command needs an argument"),
        SyntaxError::Chunk => reply(501, Status(5, 5, 4), "Write BDAT octets or BDAT octets LAST"),
        SyntaxError::Sender => reply(501, Status(5, 5, 4), "Write MAIL FROM:<address>"),
        SyntaxError::SenderAddress(AddressError::Syntax) => {
            reply(501, Status(5, 1, 7), "Bad sender address: write MAIL FROM:<address>")
        }
        SyntaxError::SenderAddress(AddressError::TooLong) => reply(501, Status(5, 1, 7), "Sender address too long"),
        SyntaxError::Recipient => reply(501, Status(5, 5, 4), "Write RCPT TO:<address>"),
        SyntaxError::RecipientAddress(AddressError::Syntax) => {
            reply(501, Status(5, 1, 3), "Bad recipient address: write RCPT TO:<address>")
        }
        SyntaxError::RecipientAddress(AddressError::TooLong) => {
            reply(501, Status(5, 1, 3), "Recipient address too long")
        }
        SyntaxError::ParameterValue => reply(501, Status(5, 5, 4), "Bad value of a parameter"),
        SyntaxError::UnknownParameter => PARAMETER_NOT_RECOGNIZED,
    }
}

/// What no command has in it.
pub const CONTROL_CHARACTER: Reply =
    fixed(500, Some(Status(5, 5, 2)), "Control character, bare CR or bare LF in a command");

/// A parameter of MAIL or RCPT that does not exist here.
pub const PARAMETER_NOT_RECOGNIZED: Reply =
    fixed(555, Some(Status(5, 5, 4)), "Parameter not recognized or not implemented");

/// The session was told something that it had not asked; the sender keeps the mail.
pub fn wrong_answer() -> Reply {
    try_again("the session got the answer to another question".to_owned())
}

// Senders and recipients.

/// The line about a recipient was edited since this connection began: its next one knows what it says now.
pub fn configuration_changed(line: LineName<'_>) -> Reply {
    let cause = format!("{} was changed since this connection began", line.of_the_configuration());
    Reply { is_our_fault: true, ..try_again(cause) }
}

/// No rule is about the recipient.
pub const NO_SUCH_RECIPIENT: Reply = fixed(550, Some(Status(5, 1, 1)), "No one here by that name");

/// Rules are about the recipient, but not from this peer.
pub const RECIPIENT_NOT_ALLOWED: Reply =
    fixed(550, Some(Status(5, 7, 1)), "Remote not configured to deliver for this address");

/// The sender is none of those who may send.
pub const SENDER_NOT_ALLOWED: Reply = fixed(550, Some(Status(5, 7, 1)), "Sender not allowed");

/// One message cannot go to two destinations that cannot take it back: the sender offers this one again.
pub const ONE_AT_A_TIME: Reply =
    fixed(452, Some(Status(4, 5, 3)), "This recipient needs a transaction of its own, send it again separately");

/// A connection has named senders and recipients enough; what is left comes over another one.
pub const ENOUGH_FOR_ONE_CONNECTION: Reply =
    fixed(421, Some(Status(4, 7, 0)), "Enough mail for one connection, send the rest over another");

/// The recipient's own lines need two such destinations; `check` finds that.
pub fn two_hand_overs() -> Reply {
    reply(451, Status(4, 3, 5), "This recipient is not configured correctly, try again later")
        .because("the lines for this recipient name two destinations that cannot be taken back")
}

/// A reply in the administrator's words, with an enhanced code that fits unless they begin with one of their own.
pub fn worded(refusal: &Refusal, status: Status) -> Reply {
    let has_own_status = Status::parse(&refusal.text).is_some_and(|(status, _)| status.0 != 2);
    // The class of the enhanced code is that of the reply code (RFC 2034, section 4).
    let status = match (refusal.code / 100, status) {
        (class, Status(other, ..)) if class != other => Status(class, 7, 1),
        (_, status) => status,
    };
    Reply { text: refusal.text.clone(), ..fixed(refusal.code, Some(status).filter(|_| !has_own_status), "") }
}

/// The reply to one command more than a limit allows.
pub fn over_limit(refusal: &Refusal) -> Reply {
    worded(refusal, Status(refusal.code / 100, 7, 0))
}

/// What goes with `limit.smtp_data_size`.
pub const MESSAGE_TOO_LARGE: Status = Status(5, 3, 4);
/// What goes with `limit.smtp_rcpt_to`.
pub const TOO_MANY_RECIPIENTS: Status = Status(4, 5, 3);
/// So many places, each of which would get a message of this size.
pub const TOO_MANY_COPIES: Status = Status(4, 5, 3);
/// No room on a disk.
pub const NO_ROOM: Status = Status(4, 3, 1);
/// What goes with `limit.bare_newline`.
pub const BARE_NEWLINE: Status = Status(5, 6, 11);
/// What goes with `limit.connection_secs` and `limit.idle_secs`.
pub const TIMED_OUT: Status = Status(4, 4, 2);
/// What goes with `limit.fcrdns_check`.
pub const NO_CONFIRMED_NAME: Status = Status(4, 7, 25);
/// What goes with `limit.pipe_secs`.
pub const COMMAND_TOO_SLOW: Status = Status(4, 3, 0);
/// What goes with `limit.broker_secs`.
pub const BROKER_TOO_SLOW: Status = Status(4, 4, 2);
/// What goes with `limit.relay_secs`.
pub const HOP_TOO_SLOW: Status = Status(4, 4, 2);
/// What goes with mail that comes back (RFC 3463, 3.5).
pub const IN_CIRCLES: Status = Status(5, 4, 6);
/// What goes with `error rcpt_to`.
pub const RECIPIENT_REFUSED: Status = Status(5, 1, 1);
/// What goes with `error mail_from`.
pub const SENDER_REFUSED: Status = Status(5, 7, 1);

// Deliveries.

/// Something of ours stands in the way; the sender keeps the mail.
pub fn try_again(cause: String) -> Reply {
    reply(451, Status(4, 3, 0), "Cannot deliver this message now, try again later").because(cause)
}

/// A mailbox is locked by somebody else.
pub fn mailbox_busy(cause: String) -> Reply {
    reply(451, Status(4, 2, 0), "The mailbox is in use, try again later").because(cause)
}

/// Another session delivers the very same message.
pub fn message_busy(cause: String) -> Reply {
    reply(451, Status(4, 3, 0), "This message is being delivered, try again later").because(cause)
}

/// No room on the disk.
pub fn no_room(cause: String) -> Reply {
    reply(452, Status(4, 3, 1), "Not enough room for this message, try again later").because(cause)
}

/// The message goes in circles.
pub fn too_many_hops(hops: usize) -> Reply {
    reply(554, IN_CIRCLES, "Too many hops, this message goes in circles").because(format!("{hops} Received fields"))
}

/// A broker takes so many bytes and not more.
pub fn too_large_for_broker(room: usize) -> Reply {
    reply(552, MESSAGE_TOO_LARGE, format!("The message is too large for where it goes, which takes {room} bytes"))
}

/// The next server cannot be reached.
pub fn hop_unreachable(cause: String) -> Reply {
    let text = "The server that takes this mail cannot be reached, try again later";
    Reply { is_our_fault: true, ..reply(451, Status(4, 4, 1), text).because(cause) }
}

/// The connection to it is over, or what it says makes no sense.
pub fn hop_lost(cause: String) -> Reply {
    let text = "The server that takes this mail does not take it now, try again later";
    Reply { is_our_fault: true, ..reply(451, Status(4, 4, 2), text).because(cause) }
}

/// It has no certificate that we could believe, or no TLS.
pub fn hop_insecure(cause: String) -> Reply {
    let text = "The server that takes this mail cannot be reached safely, try again later";
    Reply { is_our_fault: true, ..reply(451, Status(4, 7, 5), text).because(cause) }
}

/// It does not like how we speak with it.
pub fn hop_misconfigured(cause: String) -> Reply {
    let text = "The way to the server that takes this mail is not configured correctly, try again later";
    Reply { is_our_fault: true, ..reply(451, Status(4, 3, 5), text).because(cause) }
}

/// It is this server itself, and each session would ask the next.
pub fn hop_is_us(cause: String) -> Reply {
    let text = "The server that takes this mail is this one, mail would go in circles";
    Reply { is_our_fault: true, ..reply(554, IN_CIRCLES, text) }.because(cause)
}

/// It takes no message of this size.
pub fn too_large_for_hop(size: u64, limit: u64) -> Reply {
    reply(552, MESSAGE_TOO_LARGE, "The message is too large for where it goes")
        .because(format!("{size} octets, and the next server takes {limit}"))
}

/// It takes none with this address, or in this header (RFC 6531, 3.5).
pub const NO_UTF8_AT_HOP: Reply = fixed(550, Some(Status(5, 6, 7)), "The server that takes this mail has no SMTPUTF8");

/// It takes no bytes beyond ASCII, and we change no message (RFC 6152, section 3).
pub const NO_EIGHT_BIT_AT_HOP: Reply =
    fixed(554, Some(Status(5, 6, 3)), "The server that takes this mail takes ASCII only, and this message is not");

/// A `pipe` command refused the message for good; the code says why.
pub fn command_refused(code: u16, status: Status, text: &'static str, cause: String) -> Reply {
    reply(code, status, text).because(cause)
}

/// A `pipe` command cannot do its work, now or later.
pub fn command_broken(status: Status, text: &'static str, cause: String) -> Reply {
    Reply { is_our_fault: true, ..reply(554, status, text).because(cause) }
}

/// How wide the lines of HELP are.
const HELP_WIDTH: usize = 66;

#[cfg(test)]
mod tests {
    use super::wire::tests::encoded;
    use super::*;

    #[test]
    fn the_administrators_words() {
        let refusal = |code, text: &'static str| Refusal { code, text: text.into() };
        assert_eq!(encoded(&worded(&refusal(550, "No one here"), Status(5, 1, 1)), true), "550 5.1.1 No one here\r\n");
        assert_eq!(encoded(&worded(&refusal(450, "Later"), Status(5, 1, 1)), true), "450 4.7.1 Later\r\n");
        assert_eq!(
            encoded(&worded(&refusal(550, "005.2.1 Gone"), Status(5, 1, 1)), true),
            "550 5.1.1 005.2.1 Gone\r\n"
        );
        assert_eq!(encoded(&worded(&refusal(550, "5.2.1 Gone"), Status(5, 1, 1)), true), "550 5.2.1 Gone\r\n");
    }
}
