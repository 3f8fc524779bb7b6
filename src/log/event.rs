//! Every line of the log, with the flag that asks for it and how urgent it is.
//!
//! Programs act on these lines. fail2ban bans a peer for `ERROR: 5xx`, which is written for one event only: a reply
//! that refuses something permanently ([`Event::Reply`]). If the refusal is not the peer's fault, or the peer has
//! logged in, the line does not begin with `ERROR`.

use nix::sys::signal::Signal;
use std::fmt::{self, Display};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitStatus;

use super::{Log, Severity};
use crate::config::{Diagnostic, Flags};
use crate::net::tls::TlsParameters;
use crate::peer::{Address, Peer};
use crate::smtp::auth::Mechanism;
use crate::smtp::reply::{self, Reply};
use crate::smtp::upstream::shown;
use crate::smtp::{Delivery, NOT_SHOWN};
use crate::untrusted::{Untrusted, with_one_address, without_hosts};

/// Something worth a line.
#[expect(missing_docs, reason = "what the fields of a variant are is said of the variant")]
pub enum Event<'a> {
    /// A session cannot take mail because of this error in this file.
    ConfigurationError(&'a Diagnostic, &'a Path),
    /// The configuration was read; the text is our own name.
    ConfigurationRead(&'a Path, &'a str),
    /// An index that is there was of no use, for this reason.
    IndexNotUsed(&'a Path, &'a str),
    /// Nobody is there any more.
    PeerGoneBeforeGreeting,
    /// Standard input is not a connection.
    NotAConnection(&'a anyhow::Error),
    /// We run as root, because the configuration names no user.
    RunningAsRoot,
    /// We are not this user, and only root could become it.
    CannotBecome { name: &'a str, uid: u32 },
    /// Who the peer is.
    Connected(&'a Peer),
    /// The peer has this confirmed name.
    HostName(&'a str),
    /// The peer has no confirmed name, for this reason.
    NoHostName(&'a dyn Display),

    /// The connection is encrypted, with these parameters.
    Secured(&'a TlsParameters),
    /// TLS did not begin, for this reason, so there is no session.
    NotSecured(&'a dyn Display),
    /// TLS cannot begin with any peer, for this reason, and without it nothing can be said.
    NoKey(&'a anyhow::Error),
    /// So many octets that had come in the clear behind STARTTLS were thrown away.
    PlaintextThrownAway(usize),

    /// The peer has logged in as this user by this mechanism.
    Authenticated { user: &'a str, mechanism: Mechanism },
    /// A command line.
    Command(&'a [u8]),
    /// A line that may be a password.
    SecretLine,
    /// A command line with parameters that were accepted although they were not offered.
    UnofferedParameters(&'a [u8]),
    /// A reply; a negative one is logged whatever the flags.
    Reply(&'a Reply),
    /// A reply that puts the peer off, and how many replies of this session said the same.
    RefusedAgain { reply: &'a Reply, count: u64 },
    /// Which rule led to a decision.
    Rule(&'a dyn Display),
    /// A line of a message that is coming in.
    Letter(&'a [u8]),
    /// A line of a message for people (the `print` action).
    Print(&'a [u8]),

    /// A recipient has the message at a destination; the size is in octets.
    Delivered {
        id: &'a str,
        from: &'a dyn Display,
        to: &'a dyn Display,
        size: &'a dyn Display,
        action: &'a dyn Display,
        /// The words of a server that has taken the message over.
        said: Option<&'a Reply>,
        /// The identifier with which the message had been delivered there before, if it had, so that it was not again.
        first: Option<&'a str>,
    },
    /// The table of `exactly_once` in this folder cannot be used.
    NotExactlyOnce(&'a Path, &'a io::Error),
    /// A record of `exactly_once` cannot be read or written.
    NoRecords(&'a io::Error),
    /// We are connected to a server that mail is passed on to.
    HopConnected { hop: &'a str, address: SocketAddr },
    /// The connection to that server is encrypted.
    HopSecured { hop: &'a str },
    /// That connection is not encrypted, for this reason, and need not be.
    HopNotSecured { hop: &'a str, why: &'a str },
    /// A command that we send to that server, without passwords.
    HopCommand { hop: &'a str, words: &'a str },
    /// A reply of that server.
    HopReply { hop: &'a str, reply: &'a str },
    /// A mailbox is opened.
    OpeningMailbox(&'a Path),
    /// A mailbox is closed, with what was appended to it.
    ClosingMailbox(&'a Path),
    /// A mailbox or another file still holds a refused message, for this reason.
    NotTakenBack { path: &'a Path, why: &'a dyn Display },
    /// A `FILE.lock` is ignored, because it is so many seconds old.
    StaleLock { path: &'a Path, age: u64 },
    /// This kind of lock failed with this error, so that the mailbox has a lock of the other kind only.
    OneLockOnly { path: &'a Path, missing: &'a str, error: &'a io::Error },
    /// The file system of this folder cannot sync folders; the error says so.
    FolderNotSynced(&'a Path, &'a io::Error),
    /// A file for a single message is written.
    WritingFile(&'a Path),
    /// That file got its final name, by which readers find it.
    FileDelivered(&'a Path),
    /// A command is started.
    StartingCommand(&'a str),
    /// A command has ended; `output` is the first line of its output.
    CommandEnded { command: &'a str, status: ExitStatus, output: &'a [u8] },

    /// There is no sandbox, for this reason.
    NoSandbox(&'a dyn Display),
    /// The sandbox lacks something, as this says.
    PartialSandbox(&'a dyn Display),

    /// The counts of this session could not be added; the text says where and why.
    NotCounted(&'a str),
    /// The message with this identifier is delivered, but could not be reported.
    NotReported(&'a str, &'a io::Error),
    /// Messages cannot be reported, for this reason.
    NoReports(&'a io::Error),
    /// Part of the message with this identifier could not be decoded because of this panic.
    NotDecoded(&'a str, &'a str),

    /// The peer disconnected in the middle of a message; the text says how.
    GoneInTransaction(&'a str),
    /// The peer disconnected, and may not know that this message is delivered; `deliveries` say to whom, and
    /// `is_recorded` whether `exactly_once` will recognise it.
    GoneUnconfirmed { how: &'a str, id: &'a str, deliveries: &'a [Delivery], is_recorded: bool },
    /// The peer disconnected between messages.
    Gone(&'a str),
    /// The session has ended; so many messages were accepted.
    Closed(u32),

    /// `listen` refused a connection because all places, or all of this peer, are taken.
    TurnedAway { reply: &'a Reply, sessions: usize, with_peer: usize, network: &'a dyn Display },
    /// A session was killed.
    SessionKilled(Signal),
    /// The session is not recorded, or no longer.
    NoTranscript(&'a dyn Display),
    /// `listen` was asked to reload.
    NothingToReload,
    /// `listen` was asked for its numbers: running sessions, sessions so far, and peers that were turned away.
    Report { now: usize, served: u64, turned_away: u64 },
    /// `listen` cannot accept connections.
    CannotAccept(&'a io::Error),
    /// The log file cannot be opened, so lines go here.
    LoggingHere(&'a Path, &'a io::Error),
    /// So many lines are missing here, because nobody read the log or it had no room.
    LinesLost(u64),
}

impl Event<'_> {
    /// The flag that turns this line on, or `None` if it is always written; and its severity for syslog.
    fn kind(&self) -> (Option<Flags>, Severity) {
        match self {
            Event::ConfigurationRead(..) | Event::IndexNotUsed(..) => (Some(Flags::CONFIG), Severity::Info),
            Event::OpeningMailbox(_)
            | Event::ClosingMailbox(_)
            | Event::WritingFile(_)
            | Event::FileDelivered(_)
            | Event::StartingCommand(_)
            | Event::CommandEnded { .. } => (Some(Flags::FILES), Severity::Info),
            Event::Closed(_) => (Some(Flags::CLOSING), Severity::Info),
            Event::HostName(_) | Event::NoHostName(_) => (Some(Flags::HOSTS), Severity::Info),
            Event::Letter(_) => (Some(Flags::LETTERS), Severity::Info),
            Event::Rule(_) => (Some(Flags::RULES), Severity::Info),
            Event::Reply(reply) if reply.is_negative() => (None, Severity::Error),
            Event::Connected(_)
            | Event::Secured(_)
            | Event::Command(_)
            | Event::SecretLine
            | Event::Reply(_)
            | Event::HopConnected { .. }
            | Event::HopSecured { .. }
            | Event::HopCommand { .. }
            | Event::HopReply { .. } => (Some(Flags::DIALOGUE), Severity::Info),
            Event::PeerGoneBeforeGreeting
            | Event::UnofferedParameters(_)
            | Event::NotSecured(_)
            | Event::PlaintextThrownAway(_)
            | Event::HopNotSecured { .. }
            | Event::StaleLock { .. }
            | Event::OneLockOnly { .. }
            | Event::FolderNotSynced(..)
            | Event::PartialSandbox(_)
            | Event::NotCounted(_)
            | Event::Gone(_) => (Some(Flags::WARNINGS), Severity::Warning),
            Event::Authenticated { .. } | Event::Delivered { .. } => (Some(Flags::DELIVERIES), Severity::Info),
            Event::ConfigurationError(..) | Event::RefusedAgain { .. } | Event::TurnedAway { .. } => {
                (None, Severity::Error)
            }
            Event::NotAConnection(_)
            | Event::RunningAsRoot
            | Event::CannotBecome { .. }
            | Event::NoKey(_)
            | Event::NoSandbox(_)
            | Event::NotTakenBack { .. }
            | Event::NotExactlyOnce(..)
            | Event::NoRecords(_)
            | Event::NotReported(..)
            | Event::NoReports(_)
            | Event::NoTranscript(_)
            | Event::NotDecoded(..)
            | Event::GoneInTransaction(_)
            | Event::GoneUnconfirmed { .. }
            | Event::SessionKilled(_)
            | Event::CannotAccept(_)
            | Event::LoggingHere(..)
            | Event::LinesLost(_) => (None, Severity::Warning),
            Event::Print(_) | Event::NothingToReload | Event::Report { .. } => (None, Severity::Info),
        }
    }

    /// Whether a log with these flags has this line.
    pub(super) fn is_wanted(&self, flags: Flags) -> bool {
        let (flag, _) = self.kind();
        flag.is_none_or(|flag| flags.has(flag))
    }

    /// The severity for syslog.
    pub(super) fn severity(&self) -> Severity {
        self.kind().1
    }

    /// Whether etc/fail2ban/filter.d/mailrecv.conf counts this line against the peer: a permanent refusal, or being put
    /// off again and again. The filter counts network peers only.
    pub(crate) fn is_counted(&self, log: &Log) -> bool {
        let counts = match self {
            Event::Reply(reply) => reply.is_permanent() && is_error(reply, log),
            Event::RefusedAgain { reply, count } => !reply.is_permanent() && is_error(reply, log) && *count >= 1000,
            _ => false,
        };
        counts && log.peer.parse::<IpAddr>().is_ok()
    }

    /// The line without date and peer, in the form for this log. Whatever a peer wrote, no bracketed address but its
    /// own appears in it.
    pub fn text<'e>(&'e self, log: &'e Log) -> impl Display + 'e {
        with_one_address(fmt::from_fn(move |f| self.write(log, f)), &log.peer)
    }

    fn write(&self, log: &Log, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::ConfigurationError(error, file) => {
                write!(f, "ERROR: {}", error.headline(&file.display().to_string()))
            }
            Event::ConfigurationRead(file, domain) => write!(f, "DEBUG: config {}: domain {domain}", file.display()),
            Event::IndexNotUsed(index, why) => write!(f, "DEBUG: index {} is of no use: {why}", index.display()),
            Event::PeerGoneBeforeGreeting => f.write_str("WARNING: the peer had gone before it could be greeted"),
            Event::NotAConnection(error) => write!(f, "WARNING: {error:#}"),
            Event::RunningAsRoot => f.write_str(
                "WARNING: running as root: name a user in the super-server's entry, or with `user` in the configuration",
            ),
            Event::CannotBecome { name, uid } => write!(
                f,
                "WARNING: `user {name}` does nothing, because root did not start us: running as user {uid}"
            ),
            Event::Connected(peer) => match peer.address {
                Address::Ip(address) => write!(f, "SMTP connection from remote host {} ({address})", peer.name()),
                Address::Local(Some(uid)) => write!(f, "SMTP connection from user {uid} of this host"),
                Address::Local(None) => f.write_str("SMTP connection from an unknown user of this host"),
            },
            Event::HostName(name) => write!(f, "DEBUG: host name '{name}' is confirmed"),
            Event::NoHostName(why) => write!(f, "DEBUG: {why}"),
            Event::Secured(parameters) => {
                write!(f, "DEBUG: {parameters}")?;
                if let Some(name) = &parameters.server_name {
                    write!(f, " for '{}'", log.untrusted(name.as_bytes()))?;
                }
                if parameters.is_resumed { f.write_str(", resumed") } else { Ok(()) }
            }
            Event::NotSecured(why) => write!(f, "WARNING: no TLS with this peer: {why}"),
            Event::NoKey(error) => write!(f, "WARNING: no TLS, and so no mail: {error:#}"),
            Event::PlaintextThrownAway(octets) => {
                write!(f, "WARNING: {octets} bytes came in the clear behind STARTTLS, and are thrown away")
            }
            Event::Authenticated { user, mechanism } => {
                write!(f, "INFO: authenticated as '{}' by {}", log.untrusted(user.as_bytes()), mechanism.name())
            }
            Event::Command(words) => write!(f, "DEBUG: SMTP cmd: '{}'", log.untrusted(words)),
            Event::SecretLine => write!(f, "DEBUG: SMTP cmd: ({NOT_SHOWN})"),
            Event::UnofferedParameters(words) => {
                write!(f, "WARNING: parameters that were not offered: '{}'", log.untrusted(words))
            }
            Event::Reply(reply) if reply.is_negative() => write_refusal(reply, log, f),
            // A challenge of SCRAM is not logged: with it passwords could be guessed (RFC 5802, section 9).
            Event::Reply(Reply { code: reply::CHALLENGE, .. }) => {
                write!(f, "DEBUG: SMTP reply: {} (not shown)", reply::CHALLENGE)
            }
            Event::Reply(reply) => write!(f, "DEBUG: SMTP reply: {} {}", reply.code, reply.text.replace('\n', " / ")),
            Event::RefusedAgain { reply, count } => {
                write_refusal(reply, log, f)?;
                write!(f, " ({count} such refusals until now)")
            }
            Event::Rule(decision) => write!(f, "DEBUG: {decision}"),
            Event::Letter(line) => write!(f, "DEBUG: Letter: '{}'", log.untrusted(line)),
            Event::Print(line) => write!(f, "| {}", without_hosts(Untrusted::new(line).for_people().whole())),
            Event::HopConnected { hop, address } => write!(f, "DEBUG: connected to {hop} ({})", address.ip()),
            Event::HopSecured { hop } => write!(f, "DEBUG: {hop} is under TLS"),
            Event::HopNotSecured { hop, why } => write!(f, "WARNING: no TLS with {hop}: {why}"),
            Event::HopCommand { hop, words } => {
                write!(f, "DEBUG: to {hop}: '{}'", log.untrusted(words.as_bytes()))
            }
            Event::HopReply { hop, reply } => write!(f, "DEBUG: from {hop}: '{}'", Untrusted::new(reply.as_bytes())),
            Event::Delivered { id, from, to, size, action, said, first } => {
                let (from, to) = (from.to_string(), to.to_string());
                let (from, to) = (log.untrusted(from.as_bytes()), log.untrusted(to.as_bytes()));
                let (from, to) = (from.in_angles(), to.in_angles());
                write!(f, "Mail id={id} from=<{from}> to=<{to}> size={size} {action}: delivered")?;
                match (first, said) {
                    (Some(first), _) => write!(f, " before as {first}"),
                    (None, Some(reply)) => write!(f, " ({})", Untrusted::new(shown(reply).as_bytes())),
                    (None, None) => Ok(()),
                }
            }
            Event::NotExactlyOnce(folder, error) => write!(
                f,
                "WARNING: `exactly_once {}` cannot be used, and a message that comes again is delivered again: {error}",
                folder.display()
            ),
            Event::NoRecords(error) => {
                write!(f, "WARNING: `exactly_once` fails, and a message that comes again may be delivered again: {error}")
            }
            Event::OpeningMailbox(path) => write!(f, "DEBUG: opening {}", path.display()),
            Event::ClosingMailbox(path) => write!(f, "DEBUG: closing {}", path.display()),
            Event::NotTakenBack { path, why } => {
                write!(f, "WARNING: {} may hold what was refused: {why}", path.display())
            }
            Event::StaleLock { path, age } => {
                write!(f, "WARNING: {} is {age} s old and not respected", path.display())
            }
            Event::OneLockOnly { path, missing, error } => {
                write!(f, "WARNING: {} has no lock of {missing} ({error}), only one of the other kind", path.display())
            }
            Event::FolderNotSynced(folder, error) => write!(
                f,
                "WARNING: the file system of {} cannot sync folders ({error}): a power cut may cost a new file there",
                folder.display()
            ),
            Event::WritingFile(path) => write!(f, "DEBUG: writing {}", path.display()),
            Event::FileDelivered(path) => write!(f, "DEBUG: delivered {}", path.display()),
            Event::StartingCommand(command) => write!(f, "DEBUG: starting '{command}'"),
            Event::CommandEnded { command, status, output } => {
                write!(f, "DEBUG: {}", CommandEnd { command, status: *status, output })
            }
            Event::NoSandbox(flaw) | Event::PartialSandbox(flaw) => write!(f, "WARNING: {flaw}"),
            Event::NotCounted(where_and_why) => write!(f, "WARNING: this session is not counted in {where_and_why}"),
            Event::NotReported(id, error) => write!(f, "WARNING: message {id} is delivered, but not reported: {error}"),
            Event::NoReports(error) => write!(f, "WARNING: messages cannot be reported: {error}"),
            Event::NoTranscript(error) => {
                write!(f, "WARNING: the transcript of this session is missing or breaks off: {error}")
            }
            Event::NotDecoded(id, panic) => write!(
                f,
                "WARNING: some of message {id} is shown as it came, because of a fault in this program: '{}'",
                log.untrusted(panic.as_bytes())
            ),
            Event::GoneInTransaction(how) => {
                write!(f, "WARNING: {how}; nothing was delivered of the message it had begun")
            }
            Event::GoneUnconfirmed { how, id, deliveries, is_recorded } => {
                write!(f, "WARNING: {how}; message {id} is delivered")?;
                let of_lmtp = deliveries.iter().filter(|delivery| delivery.transaction.hello.is_lmtp());
                let to: Vec<String> = of_lmtp.flat_map(Delivery::recipients).map(|it| it.mailbox.to_string()).collect();
                if !to.is_empty() {
                    write!(f, " to '{}'", log.untrusted(to.join(" ").as_bytes()))?;
                }
                f.write_str(", but if the peer has not read that it will send it again")?;
                f.write_str(if *is_recorded { ", and that is not delivered again" } else { "" })
            }
            Event::Gone(how) => write!(f, "WARNING: {how}"),
            Event::Closed(messages) => write!(f, "INFO: connection closed, {messages} messages accepted"),
            Event::TurnedAway { reply, sessions, with_peer, network } => {
                write!(f, "ERROR: {} {} ({sessions} sessions, {with_peer} with {network})", reply.code, reply.text)
            }
            Event::SessionKilled(signal) => {
                write!(f, "WARNING: the session was killed by {signal}; the peer was told nothing and tries again")
            }
            Event::NothingToReload => {
                write!(f, "INFO: nothing to reload: each connection reads the configuration as it is then")
            }
            Event::Report { now, served, turned_away } => {
                write!(f, "INFO: sessions now: {now}, served: {served}, turned away: {turned_away}")
            }
            Event::CannotAccept(error) => write!(f, "WARNING: cannot accept connections: {error}"),
            Event::LoggingHere(path, error) => {
                write!(f, "WARNING: logging here, because {} cannot be opened: {error}", path.display())
            }
            Event::LinesLost(count) => write!(f, "WARNING: lines that were lost before this one: {count}"),
        }
    }
}

/// Writes `ERROR: CODE TEXT 'subject' (user 'name') (cause)`. It begins with `WARNING` if the refusal is not the peer's
/// fault, only follows from another one that has its own line, or was sent to a peer that has logged in: peers are
/// banned for errors.
fn write_refusal(reply: &Reply, log: &Log, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let kind = if is_error(reply, log) { "ERROR" } else { "WARNING" };
    // Always a single line, even if an administrator's text has several.
    write!(f, "{kind}: {} {}", reply.code, reply.text.replace('\n', " / "))?;
    if let Some(subject) = &reply.subject {
        write!(f, " '{}'", log.untrusted(subject))?;
    }
    if let Some(user) = &*log.user.borrow() {
        write!(f, " (user '{}')", log.untrusted(user.as_bytes()))?;
    }
    match &reply.cause {
        Some(cause) => write!(f, " ({cause})"),
        None => Ok(()),
    }
}

/// Whether a refusal counts against the peer: it is the peer's fault, it was not logged before, and nobody has logged
/// in.
fn is_error(reply: &Reply, log: &Log) -> bool {
    !reply.is_our_fault && !reply.is_echo && log.user.borrow().is_none()
}

/// How a command ended, with the first line of its output; for log lines and for the cause of a reply.
pub(crate) struct CommandEnd<'a> {
    pub(crate) command: &'a str,
    pub(crate) status: ExitStatus,
    pub(crate) output: &'a [u8],
}

impl Display for CommandEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, output } = self;
        write!(f, "'{command}' ended, {status}{}", said(output))
    }
}

/// The output of a command behind a colon, if there was any.
pub(crate) fn said(output: &[u8]) -> impl Display {
    fmt::from_fn(move |f| match output {
        [] => Ok(()),
        output => write!(f, ": '{}'", Untrusted::new(output)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogTarget;

    /// Administrators' filters act on these.
    #[test]
    fn nothing_but_a_permanent_refusal_is_an_error_5xx() {
        let log = Log::new(LogTarget::Stderr, Flags::default(), true, "192.0.2.7".to_owned());
        let error = io::Error::other("550 of the system");
        let forged = "550 No one here";
        let refusal = reply::NO_SUCH_RECIPIENT.about(forged);
        for (event, is_refusal) in [
            (Event::Reply(&refusal), true),
            (Event::Reply(&reply::command_broken(reply::Status(5, 3, 0), "Broken", forged.to_owned())), false),
            (Event::Reply(&reply::behind_refused("RCPT")), false),
            (Event::Reply(&reply::try_again(forged.to_owned())), false),
            (Event::Reply(&reply::OK), false),
            (Event::Reply(&reply::not_authenticated(false).about(forged)), true),
            (Event::Reply(&reply::cannot_authenticate(forged)), false),
            (Event::Authenticated { user: "ERROR: 550", mechanism: Mechanism::Plain }, false),
            (Event::Command(b"ERROR: 550 No one here"), false),
            (Event::UnofferedParameters(b"ERROR: 550 No one here"), false),
            (Event::Letter(b"ERROR: 550 No one here"), false),
            (Event::Print(b"ERROR: 550 No one here"), false),
            (Event::Rule(&"ERROR: 550 No one here"), false),
            (Event::HopCommand { hop: "ERROR: 550", words: "ERROR: 550 No one here" }, false),
            (Event::HopReply { hop: "ERROR: 550", reply: "ERROR: 550 No one here" }, false),
            (Event::HopNotSecured { hop: "ERROR: 550", why: forged }, false),
            (Event::Gone("ERROR: 550 No one here"), false),
            (Event::NoHostName(&forged), false),
            (Event::CannotAccept(&error), false),
            (Event::RefusedAgain { reply: &reply::ONE_AT_A_TIME.about(forged), count: 550 }, false),
            (
                Event::TurnedAway { reply: &reply::too_busy(), sessions: 550, with_peer: 550, network: &"this peer" },
                false,
            ),
        ] {
            let text = event.text(&log).to_string();
            assert_eq!(text.starts_with("ERROR: 5"), is_refusal, "{text}");
            assert_eq!(event.is_counted(&log), is_refusal, "{text}");
        }
    }

    /// A peer that has logged in is not banned; TLS begins anew.
    #[test]
    fn what_a_user_is_refused_is_a_warning() {
        let log = Log::new(LogTarget::Stderr, Flags::default(), true, "192.0.2.7".to_owned());
        let put_off = reply::ONE_AT_A_TIME;
        let refusal = reply::NO_SUCH_RECIPIENT.about("x").because("y");
        let again = Event::RefusedAgain { reply: &put_off, count: 1000 };
        let events = [Event::Reply(&refusal), again];
        let counted = || events.each_ref().map(|event| event.is_counted(&log));
        assert_eq!(counted(), [true, true]);
        log.authenticated("fr'ed [8.8.8.8]");
        assert_eq!(counted(), [false, false]);
        let texts = events.each_ref().map(|event| event.text(&log).to_string());
        assert!(texts.iter().all(|text| text.starts_with("WARNING: ")), "{texts:?}");
        assert!(texts[0].ends_with(" 'x' (user 'fr<0x27>ed <0x5b>8.8.8.8<0x5d>') (y)"), "{texts:?}");
        log.secured();
        assert_eq!(counted(), [true, true]);
        assert!(!events[0].text(&log).to_string().contains("user"));
    }

    #[test]
    fn refusals_are_logged_whatever_the_flags() {
        for (event, flag) in [
            (Event::Reply(&reply::NO_SUCH_RECIPIENT), None),
            (Event::Reply(&reply::OK), Some(Flags::DIALOGUE)),
            (Event::Command(b"NOOP"), Some(Flags::DIALOGUE)),
            (Event::Closed(1), Some(Flags::CLOSING)),
        ] {
            assert_eq!(event.kind().0, flag);
        }
    }
}
