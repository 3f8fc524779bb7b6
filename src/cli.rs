//! The command line: what can be typed, and what it means. mailrecv(8) is the reference.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::accounts;
use crate::accounts::hash::Kind;
use crate::config::{self, Config, Flags, LogTarget, Protocol, Unusable};
use crate::net::listener::{ListenAddress, SocketAccess};
use crate::peer::Peer;
use crate::user;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Receive mail on standard input and output, from the peer that the command line names or from the one that is
    /// connected.
    Receive(Options, Option<Peer>),
    /// Accept connections and start a receiver for each.
    Listen(Options, ListenOptions),
    /// Look for mistakes in the configuration.
    Check(Options, Check),
    /// Play these transcripts of sessions.
    Replay(Options, Vec<PathBuf>, Format),
    /// Say what would happen to a message.
    Explain(Options, Question),
    /// Show the counts in this file, or in the configuration's `metrics_file`.
    Metrics(Options, Option<PathBuf>),
    /// Make a line with this kind of hash for the file of accounts; the name is that of the account.
    Passwd(String, Kind),
    /// Run commands for the session at standard input. A session starts this, nobody types it.
    RunCommands,
}

/// What `check` is to do.
#[derive(Debug)]
pub struct Check {
    /// How much it says.
    pub verbosity: Verbosity,
    /// Whether warnings count as a failure.
    pub is_strict: bool,
    /// Whether it makes indexes.
    pub makes_indexes: bool,
    /// A folder of transcripts to play.
    pub transcripts: Option<PathBuf>,
}

/// How much `check` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors and warnings only.
    Quiet,
    /// Also that there are none, and what the sandbox allows.
    Verbose,
}

/// Options that all subcommands have.
#[derive(Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Replaces the configuration's `protocol`.
    pub protocol: Option<Protocol>,
    /// Replaces the configuration's `debug`.
    pub debug: Option<Flags>,
    /// Replaces the configuration's `logfile`.
    pub log: Option<LogTarget>,
}

impl Options {
    /// Reads the configuration, with the options that change it applied.
    pub(crate) fn load(&self) -> Result<Box<Config>, Unusable> {
        Ok(self.for_sessions(config::load(&self.config)?))
    }

    /// The same; `None` if somebody is writing to the file just now.
    pub(crate) fn load_settled(&self) -> Option<Result<Box<Config>, Unusable>> {
        config::load_settled(&self.config).map(|loaded| loaded.map(|config| self.for_sessions(config)))
    }

    fn for_sessions(&self, mut config: Box<Config>) -> Box<Config> {
        config.protocol = self.protocol.unwrap_or(config.protocol);
        config
    }
}

/// The options of `listen`.
#[derive(Debug)]
pub struct ListenOptions {
    /// Where to listen, besides the sockets that systemd passes. If there are neither, it is the default address.
    pub addresses: Vec<ListenAddress>,
    /// Where the metrics can be fetched, besides the sockets that systemd passes for them.
    pub metrics: Vec<ListenAddress>,
    /// Mode and group of the Unix sockets that are made.
    pub socket: SocketAccess,
    /// How many sessions there may be at once.
    pub max_processes: usize,
    /// How many of them with one peer.
    pub max_per_address: usize,
    /// How long sessions may go on after a request to stop.
    pub grace: Duration,
    /// After how many messages `listen` ends.
    pub count: Option<u64>,
    /// After how much time `listen` ends.
    pub timeout: Option<Duration>,
    /// The file to make when we listen, with the addresses in it.
    pub ready_file: Option<PathBuf>,
    /// Whether each accepted message is reported on standard output.
    pub json: bool,
    /// The folder for the attachments of these messages.
    pub attachments: Option<PathBuf>,
}

/// What `explain` is asked.
#[derive(Debug)]
pub struct Question {
    /// The peer that sends.
    pub peer: Peer,
    /// The argument of MAIL FROM.
    pub from: String,
    /// The arguments of RCPT TO, in order.
    pub recipients: Vec<String>,
    /// Whether the peer has begun TLS.
    pub tls: bool,
    /// The account that the peer has logged in to, if it has.
    pub user: Option<String>,
    /// The form of the answer.
    pub format: Format,
}

/// The form in which `explain` and `replay` answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: an object of JSON (RFC 8259); `replay` prints one for each transcript.
    Json,
}

/// Reads the command line. Help and version are shown by way of the error.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let arguments: Vec<OsString> = arguments.collect();
    if let [_, argument] = &arguments[..]
        && argument == RUN_COMMANDS
    {
        return Ok(Invocation::RunCommands);
    }
    if let Some(options) = of_a_super_server(&arguments) {
        return Ok(Invocation::Receive(options, None));
    }
    let matches = command().try_get_matches_from(with_debug_flags(arguments.into_iter()))?;
    let options = options(&matches)?;
    Ok(match matches.subcommand() {
        Some(("listen", matches)) => Invocation::Listen(options, listen(matches)),
        Some(("check", matches)) => {
            let verbosity = if matches.get_flag("verbose") { Verbosity::Verbose } else { Verbosity::Quiet };
            let (is_strict, makes_indexes) = (matches.get_flag("strict"), matches.get_flag("index"));
            let transcripts = matches.get_one("replay").cloned();
            Invocation::Check(options, Check { verbosity, is_strict, makes_indexes, transcripts })
        }
        Some(("replay", matches)) => {
            let files = matches.get_many("transcript").into_iter().flatten().cloned().collect();
            Invocation::Replay(options, files, format(matches))
        }
        Some(("explain", matches)) => {
            let peer = peer(matches)?.ok_or_else(|| error("--peer is missing"))?;
            let recipients = matches.get_many("rcpt").into_iter().flatten().cloned().collect();
            let format = format(matches);
            let (from, tls) = (text(matches, "from"), matches.get_flag("tls"));
            let user = matches.get_one("auth").cloned();
            Invocation::Explain(options, Question { peer, from, recipients, tls, user, format })
        }
        Some(("metrics", matches)) => Invocation::Metrics(options, matches.get_one("file").cloned()),
        Some(("passwd", matches)) => {
            let kind = matches.get_one("hash").copied().unwrap_or(Kind::ALL[0]);
            Invocation::Passwd(text(matches, "name"), kind)
        }
        _ => Invocation::Receive(options, peer(&matches)?),
    })
}

/// Recognises the simple command lines of super-servers and of `listen`. Building the definition of the whole command
/// line takes longer than everything else before the greeting. Command lines that are not recognised here go to
/// `command`, and the result is the same in both ways.
fn of_a_super_server(arguments: &[OsString]) -> Option<Options> {
    let mut arguments = arguments.get(1..)?;
    let mut protocol = None;
    if let [first, rest @ ..] = arguments
        && first == LMTP
    {
        (protocol, arguments) = (Some(Protocol::Lmtp), rest);
    }
    let (pairs, []) = arguments.as_chunks() else { return None };
    let (mut config, mut debug, mut log) = (None, None, None);
    for [name, value] in pairs {
        let value = value.to_str().filter(|value| !value.is_empty() && !value.starts_with('-'))?;
        let again = match name.to_str()? {
            "-c" => config.replace(PathBuf::from(value)).is_some(),
            "-d" => debug.replace(Flags::parse(value).ok()?).is_some(),
            "-l" => log.replace(LogTarget::parse(value)).is_some(),
            _ => true,
        };
        if again {
            return None;
        }
    }
    Some(Options { config: config.unwrap_or_else(|| config::DEFAULT_FILE.into()), protocol, debug, log })
}

/// The arguments with `-da` in place of a `-d` without flags: as in the original, the flags can be omitted.
fn with_debug_flags(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut arguments = arguments.peekable();
    std::iter::from_fn(move || {
        let argument = arguments.next()?;
        let has_flags = arguments.peek().is_some_and(|next| {
            let is_option = next.len() > 1 && next.as_encoded_bytes().starts_with(b"-");
            !is_option
                && !["listen", "check", "explain", "replay", "metrics", "passwd"]
                    .iter()
                    .any(|subcommand| *subcommand == next)
        });
        Some(if argument == "-d" && !has_flags { "-da".into() } else { argument })
    })
}

/// The definition of the command line, also used for help and shell completions.
pub fn command() -> Command {
    Command::new("mailrecv")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Receives mail on one connection and puts it where a rule says")
        .long_about(
            "Receives mail on one connection and puts it where a rule says.\n\n\
             Without a command it speaks SMTP on standard input and output, as xinetd, inetd and systemd start it.",
        )
        .after_help("mailrecv(8) tells more, mailrecv.conf(5) describes the configuration.")
        .arg(
            Arg::new("config")
                .short('c')
                .value_name("FILE")
                .help("Configuration file")
                .default_value(config::DEFAULT_FILE)
                .value_parser(value_parser!(PathBuf))
                .global(true),
        )
        .arg(
            Arg::new("debug")
                .short('d')
                .value_name("FLAGS")
                .help(format!(
                    "What to log, in place of the configuration's `debug`: letters of {}, or - for none",
                    Flags::ALPHABET
                ))
                .num_args(0..=1)
                .allow_hyphen_values(true)
                .global(true),
        )
        .arg(
            Arg::new("log")
                .short('l')
                .value_name("syslog|stderr|FILE")
                .help("Where to log, in place of the configuration's `logfile`")
                .global(true),
        )
        .arg(switch("lmtp", "Speak LMTP, in place of the configuration's `protocol`").global(true))
        .arg(peer_argument().help("The peer, when standard input is no connection"))
        // The arguments of a subcommand are built only if it is called; sessions need none of them.
        .subcommand(
            Command::new("listen").about("Accept connections and start a receiver for each").defer(listen_arguments),
        )
        .subcommand(Command::new("check").about("Look for mistakes in the configuration").defer(check_arguments))
        .subcommand(
            Command::new("explain")
                .about("Say what would happen to a message, and why, without doing anything")
                .defer(explain_arguments),
        )
        .subcommand(
            Command::new("replay")
                .about("Say what of recorded sessions would be another way today, without doing anything")
                .defer(replay_arguments),
        )
        .subcommand(
            Command::new("metrics")
                .about("Show what sessions have counted, as Prometheus reads it")
                .defer(metrics_arguments),
        )
        .subcommand(Command::new("passwd").about("Make a line for the file of accounts").defer(passwd_arguments))
}

fn listen_arguments(command: Command) -> Command {
    command
        .arg(
            Arg::new("address")
                .value_name("ADDRESS:PORT|unix:PATH")
                .num_args(0..)
                .value_parser(ListenAddress::parse)
                .help("Where to listen [default: the sockets that systemd passes, else port 25 of every address]"),
        )
        .arg(
            Arg::new("metrics")
                .long("metrics")
                .value_name("ADDRESS:PORT")
                .action(ArgAction::Append)
                .value_parser(ListenAddress::parse)
                .help("Where Prometheus may fetch the metrics"),
        )
        .arg(
            Arg::new("socket-mode")
                .long("socket-mode")
                .value_name("MODE")
                .value_parser(socket_mode)
                .help("The mode of Unix sockets [default: 660]"),
        )
        .arg(
            Arg::new("socket-group")
                .long("socket-group")
                .value_name("GROUP")
                .value_parser(|group: &str| {
                    user::group(group).ok_or_else(|| format!("there is no group `{group}` in /etc/group"))
                })
                .help("The group of Unix sockets [default: ours]"),
        )
        .arg(number("max-processes", "N", "200", "Sessions at once"))
        .arg(number("max-per-address", "N", "50", "Sessions at once with one peer"))
        .arg(number("grace", "SECONDS", "10", "How long sessions may go on after SIGTERM"))
        .arg(bound("count", "N", "Stop when so many messages have been taken"))
        .arg(bound("timeout", "SECONDS", "Stop with status 124 when so much time has passed"))
        .arg(path(
            "ready-file",
            "FILE",
            "Make this file when connections are accepted, with the addresses in it, a line each",
        ))
        .arg(switch("json", "Print each message that is taken as a line of JSON"))
        .arg(path("attachments", "DIR", "Make files of the attachments of these messages").requires("json"))
}

fn check_arguments(command: Command) -> Command {
    command
        .arg(
            Arg::new("verbose")
                .short('v')
                .action(ArgAction::SetTrue)
                .help("Say so too when there are none, and what the sandbox allows"),
        )
        .arg(switch("strict", "Exit with 1 if there are warnings"))
        .arg(switch("index", "Make indexes of files with many rules, so that sessions need not read these one by one"))
        .arg(path("replay", "DIR", "Play the transcripts in this folder as well"))
}

fn replay_arguments(command: Command) -> Command {
    command
        .arg(
            Arg::new("transcript")
                .value_name("FILE")
                .num_args(1..)
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Transcripts of sessions, as the flag `t` has them written"),
        )
        .arg(switch("json", "Answer with one object of JSON for each of them"))
}

fn explain_arguments(command: Command) -> Command {
    command
        .arg(peer_argument().required(true).help("Who sends"))
        .arg(Arg::new("from").long("from").value_name("ADDRESS").default_value("").help("The sender"))
        .arg(
            Arg::new("rcpt")
                .long("rcpt")
                .value_name("ADDRESS")
                .action(ArgAction::Append)
                .required(true)
                .help("The recipient, or one of several"),
        )
        .arg(switch("tls", "The connection is under TLS"))
        .arg(Arg::new("auth").long("auth").value_name("NAME").help("The user that the peer has logged in as"))
        .arg(switch("json", "Answer with one object of JSON"))
}

fn metrics_arguments(command: Command) -> Command {
    command.arg(
        Arg::new("file")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Where they count [default: the configuration's `metrics_file`]"),
    )
}

fn passwd_arguments(command: Command) -> Command {
    command
        .arg(
            Arg::new("name")
                .value_name("NAME")
                .required(true)
                .value_parser(account_name)
                .help("Who logs in; the password is read from standard input"),
        )
        .arg(
            Arg::new("hash")
                .long("hash")
                .value_name("KIND")
                .default_value(Kind::ALL[0].name())
                .value_parser(
                    PossibleValuesParser::new(Kind::ALL.map(Kind::name))
                        .map(|name| Kind::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or(Kind::ALL[0])),
                )
                .help("In which form the password is kept"),
        )
}

/// Reads an account's name.
fn account_name(text: &str) -> Result<String, String> {
    match accounts::misnamed(text) {
        Some(why) => Err(why.to_owned()),
        None => Ok(text.to_owned()),
    }
}

fn peer_argument() -> Arg {
    Arg::new("peer").long("peer").value_name("ADDRESS[=HOSTNAME]|local[=USER]")
}

/// An option without a value.
fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// An option with a file or folder.
fn path(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).value_parser(value_parser!(PathBuf)).help(help)
}

fn number(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .default_value(default)
        .help(help)
        .value_parser(value_parser!(u32).range(1..))
}

fn bound(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help).value_parser(value_parser!(u32).range(1..))
}

/// Reads a file mode in octal digits, as chmod(1) does.
fn socket_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && !text.starts_with('+'));
    mode.ok_or_else(|| format!("`{text}` is no mode: write three octal digits, as in 660"))
}

fn options(matches: &ArgMatches) -> Result<Options, clap::Error> {
    let debug = matches.get_one::<String>("debug").map(|flags| Flags::parse(flags)).transpose().map_err(error)?;
    Ok(Options {
        protocol: matches.get_flag("lmtp").then_some(Protocol::Lmtp),
        config: matches.get_one::<PathBuf>("config").cloned().unwrap_or_default(),
        debug,
        log: matches.get_one::<String>("log").map(|target| LogTarget::parse(target)),
    })
}

fn listen(matches: &ArgMatches) -> ListenOptions {
    let number = |name: &str| matches.get_one::<u32>(name).copied().unwrap_or(1);
    let bound = |name: &str| matches.get_one::<u32>(name).copied().map(u64::from);
    ListenOptions {
        addresses: matches.get_many("address").into_iter().flatten().cloned().collect(),
        metrics: matches.get_many("metrics").into_iter().flatten().cloned().collect(),
        socket: SocketAccess {
            mode: matches.get_one("socket-mode").copied().unwrap_or(DEFAULT_SOCKET_MODE),
            group: matches.get_one("socket-group").copied(),
        },
        max_processes: number("max-processes") as usize,
        max_per_address: number("max-per-address") as usize,
        grace: Duration::from_secs(u64::from(number("grace"))),
        count: bound("count"),
        timeout: bound("timeout").map(Duration::from_secs),
        ready_file: matches.get_one("ready-file").cloned(),
        json: matches.get_flag("json"),
        attachments: matches.get_one("attachments").cloned(),
    }
}

fn format(matches: &ArgMatches) -> Format {
    if matches.get_flag("json") { Format::Json } else { Format::Text }
}

fn peer(matches: &ArgMatches) -> Result<Option<Peer>, clap::Error> {
    matches.get_one::<String>("peer").map(|peer| Peer::parse(peer)).transpose().map_err(error)
}

fn text(matches: &ArgMatches, name: &str) -> String {
    matches.get_one::<String>(name).cloned().unwrap_or_default()
}

fn error(message: impl std::fmt::Display) -> clap::Error {
    command().error(ErrorKind::ValueValidation, message)
}

/// The option for LMTP; in super-servers' entries it comes first.
pub(crate) const LMTP: &str = "--lmtp";

/// The only argument of the process that a session starts for its commands.
pub(crate) const RUN_COMMANDS: &str = "--run-commands";

/// Owner and group of a Unix socket can connect, others cannot.
const DEFAULT_SOCKET_MODE: u32 = 0o660;

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is read without `command` means what it means to it.
    #[test]
    fn short_way() {
        let words = ["-c", "-d", "-l", "-", "a", "x.conf", "syslog", "listen", "--lmtp"];
        let mut read_short = 0;
        for number in 0..words.len().pow(4) {
            let chosen = (0..4).map(|place| words[number / words.len().pow(place) % words.len()]);
            let arguments: Vec<OsString> = ["mailrecv"].into_iter().chain(chosen).map(OsString::from).collect();
            for arguments in [&arguments[..], &arguments[..4], &arguments[..3], &arguments[..2], &arguments[..1]] {
                if let Some(short) = of_a_super_server(arguments) {
                    read_short += 1;
                    let matches = command().try_get_matches_from(with_debug_flags(arguments.iter().cloned()));
                    let long = matches.and_then(|matches| {
                        assert_eq!(matches.subcommand_name(), None);
                        options(&matches)
                    });
                    let long = long.map(|options| format!("{options:?}")).unwrap_or_else(|error| error.to_string());
                    assert_eq!(format!("{short:?}"), long, "{arguments:?}");
                }
            }
        }
        assert!(read_short > 100);
    }
}
