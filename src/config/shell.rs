//! What `mailrecv check` can tell about a shell command from its words: the programs that it runs, the files that it
//! writes to, and the variables that the shell splits.
//!
//! This is not a shell: anything that is not obvious is ignored.

/// The parts of a command, as far as they are obvious.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Command<'c> {
    /// The programs that it runs, with their positions.
    pub(super) programs: Vec<(usize, &'c str)>,
    /// The files that output is redirected to, with their positions.
    pub(super) outputs: Vec<(usize, &'c str)>,
    /// Variables outside quotes: the shell splits their values at blanks, and expands `*` and `?` in them to file
    /// names.
    pub(super) unquoted: Vec<(usize, &'c str)>,
    /// The first program that may read standard input, if it is obvious which one that is.
    pub(super) reader: Option<(usize, &'c str)>,
}

impl<'c> Command<'c> {
    pub(super) fn parse(command: &'c str) -> Self {
        let mut found = Self { unquoted: unquoted(command), ..Self::default() };
        let mut expects = Expects::Program;
        let mut is_reader_found = false;
        for (at, word) in words(command) {
            match word {
                "|" => is_reader_found = true,
                "<" | "<<" | "<&" => found.reader = None,
                _ => {}
            }
            expects = match (expects, word) {
                (_, "|" | "||" | "&&" | ";" | "&" | "(" | ")" | "{" | "}" | "!") => Expects::Program,
                (_, ">" | ">>" | ">|") => Expects::Output,
                (_, "<" | "<<" | "<&" | ">&") => Expects::Nothing,
                (Expects::Program, "if" | "then" | "else" | "elif" | "while" | "until" | "do" | "exec" | "command") => {
                    Expects::Program
                }
                // What follows these words has a grammar of its own.
                (Expects::Program, "case" | "for" | "function") => return found,
                (Expects::Program, word) if is_assignment(word) => Expects::Program,
                (Expects::Program, word) => {
                    let program = plain(at, word);
                    if !is_reader_found && !READ_NOTHING.contains(&word) {
                        is_reader_found = true;
                        found.reader = program;
                    }
                    found.programs.extend(program);
                    Expects::Argument
                }
                (Expects::Output, word) => {
                    found.outputs.extend(plain(at, word));
                    Expects::Argument
                }
                (Expects::Nothing | Expects::Argument, _) => Expects::Argument,
            };
        }
        found
    }
}

/// What the next word would be.
#[derive(Clone, Copy)]
enum Expects {
    Program,
    Output,
    Argument,
    Nothing,
}

/// `NAME=...`
fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// The word without quotes around it, if the shell would not change it otherwise; with its position.
fn plain(at: usize, word: &str) -> Option<(usize, &str)> {
    let inner = ['"', '\''].iter().find_map(|quote| word.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(word);
    let is_plain = !inner.is_empty() && !inner.contains(['"', '\'', '$', '`', '*', '?', '[', '\\', '~', '#', '{', '}']);
    is_plain.then_some((at + (word.len() - inner.len()) / 2, inner))
}

/// The words and operators of a command, with their positions.
fn words(command: &str) -> Vec<(usize, &str)> {
    let bytes = command.as_bytes();
    let (mut words, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if matches!(bytes[at], b' ' | b'\t') {
            at += 1;
            continue;
        }
        let start = at;
        if is_operator(bytes[at]) {
            let pair = command.get(at..at + 2).unwrap_or_default();
            at += if ["||", "&&", ">>", "<<", ">|", ">&", "<&", ";;"].contains(&pair) { 2 } else { 1 };
            words.push((start, &command[start..at]));
            continue;
        }
        let mut quote = None;
        while at < bytes.len() {
            match (quote, bytes[at]) {
                (Some(open), byte) if open == byte => quote = None,
                (Some(b'\''), _) => {}
                (_, b'\\') => at += 1,
                (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
                (None, byte) if matches!(byte, b' ' | b'\t') || is_operator(byte) => break,
                _ => {}
            }
            at += 1;
        }
        at = at.min(bytes.len());
        let word = &command[start..at];
        if word.starts_with('#') {
            break;
        }
        // The number of a descriptor belongs to the operator behind it.
        let is_descriptor =
            word.bytes().all(|byte| byte.is_ascii_digit()) && matches!(bytes.get(at), Some(b'<' | b'>'));
        if !is_descriptor {
            words.push((start, word));
        }
    }
    words
}

fn is_operator(byte: u8) -> bool {
    matches!(byte, b'|' | b'&' | b';' | b'<' | b'>' | b'(' | b')')
}

/// The variables outside quotes. In `case $NAME in` and `NAME=$OTHER` the value is not split.
fn unquoted(command: &str) -> Vec<(usize, &str)> {
    let bytes = command.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    // Whether we are within double quotes, with one entry for each nested `$(`.
    let mut quoted = vec![false];
    while at < bytes.len() {
        let is_quoted = quoted.last().copied().unwrap_or_default();
        match bytes[at] {
            b'\\' => at += 1,
            b'\'' if !is_quoted => {
                let Some(length) = memchr::memchr(b'\'', &bytes[at + 1..]) else { break };
                at += 1 + length;
            }
            b'"' => {
                if let Some(last) = quoted.last_mut() {
                    *last = !*last;
                }
            }
            b'#' if !is_quoted && (at == 0 || matches!(bytes[at - 1], b' ' | b'\t')) => break,
            b'$' if bytes.get(at + 1) == Some(&b'(') => {
                quoted.push(false);
                at += 1;
            }
            b')' if !is_quoted && quoted.len() > 1 => {
                quoted.pop();
            }
            b'$' if !is_quoted && !is_taken_whole(&command[..at]) => {
                if let Some(variable) = variable(&command[at..]) {
                    found.push((at, variable));
                    at += variable.len() - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Whether the shell does not split what follows this text.
fn is_taken_whole(before: &str) -> bool {
    let word = before.rsplit([' ', '\t', ';', '|', '&', '(', '`']).next().unwrap_or_default();
    let last_but_one = before.trim_end().rsplit([' ', '\t', ';', '|', '&', '(']).next().unwrap_or_default();
    is_assignment(word) || (word.is_empty() && last_but_one == "case")
}

/// `$NAME` or `${NAME...}` at the beginning of a text.
fn variable(text: &str) -> Option<&str> {
    match text.strip_prefix("${") {
        Some(rest) => rest.starts_with(|c: char| c.is_ascii_alphabetic()).then_some(&text[..2 + rest.find('}')? + 1]),
        None => {
            let rest = &text[1..];
            let length = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
            rest.starts_with(|c: char| c.is_ascii_alphabetic()).then_some(&text[..1 + length])
        }
    }
}

/// The name of a variable, without `$` and braces.
pub(super) fn name_of(variable: &str) -> &str {
    let inner = variable.trim_start_matches(['$', '{']);
    let length = inner.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    &inner[..length]
}

/// Whether the peer can choose the value of a variable.
pub(super) fn is_of_the_peer(name: &str) -> bool {
    VARIABLES.iter().any(|(known, is_of_the_peer)| *known == name && *is_of_the_peer)
}

/// What a variable of our environment would do in the environment of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It is set by us.
    Ours,
    /// It is passed to every command.
    Passed,
    /// It changes which programs and which code run, for any command.
    Misleads,
    Other,
}

pub(super) fn role_of(name: &str) -> Role {
    match name {
        "PATH" | "HOME" | "USER" | "LOGNAME" | "SHELL" => Role::Ours,
        _ if VARIABLES.iter().any(|(known, _)| *known == name) => Role::Ours,
        _ if PASSED.contains(&name) => Role::Passed,
        _ if MISLEADING.contains(&name) || name.starts_with("LD_") => Role::Misleads,
        _ => Role::Other,
    }
}

/// Variables that shells and the C library act on before they do what they are told (dash(1), bash(1), ld.so(8)).
/// Variables for interpreters, such as PERL5LIB, are not among them: whoever sets our environment decides about these,
/// and could as well name another command.
const MISLEADING: [&str; 10] =
    ["IFS", "ENV", "BASH_ENV", "SHELLOPTS", "BASHOPTS", "CDPATH", "GLOBIGNORE", "PS4", "PWD", "GLIBC_TUNABLES"];

/// Variables that commands get unchanged: they describe the place and contain no secrets.
pub(crate) const PASSED: [&str; 2] = ["TZ", "LANG"];

/// The shell that runs commands.
pub(crate) const SHELL: &str = "/bin/sh";

/// What a shell does itself without reading standard input.
const READ_NOTHING: [&str; 14] =
    ["[", ":", "cd", "echo", "exit", "export", "false", "printf", "set", "test", "trap", "true", "ulimit", "umask"];

/// Where commands look for programs.
pub(crate) const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The variable that identifies a message if it comes again; only set with `exactly_once`.
pub(crate) const HASH_VARIABLE: &str = "MESSAGE_HASH";

/// The variables with the envelope in the environment of a command, and whether the peer can choose their values.
pub(crate) const VARIABLES: [(&str, bool); 15] = [
    ("SENDER", true),
    ("RECIPIENT", true),
    ("ORIGINAL_RECIPIENT", true),
    ("LOCAL", true),
    ("EXTENSION", true),
    ("DOMAIN", true),
    ("CLIENT_ADDRESS", false),
    ("CLIENT_HOSTNAME", true),
    ("CLIENT_HELO", true),
    ("CLIENT_PROTOCOL", false),
    ("AUTH_USER", true),
    ("MESSAGE_ID", false),
    (HASH_VARIABLE, false),
    ("TLS_VERSION", false),
    ("TLS_CIPHER", false),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_outside_quotes() {
        for (command, expected) in [
            ("cat > /var/mail/$LOCAL", &["$LOCAL"][..]),
            ("cat > \"/var/mail/$LOCAL\"", &[]),
            ("run ${SENDER} '$LOCAL' \\$DOMAIN", &["${SENDER}"]),
            ("run \"$(basename $LOCAL)\"", &["$LOCAL"]),
            ("run \"$(basename \"$LOCAL\")\" $SENDER", &["$SENDER"]),
            ("X=$LOCAL; run \"$X\"", &[]),
            ("case $LOCAL in [.-]*|*[!a-zA-Z0-9.-]*) exit 67;; esac; cat >> \"/srv/mail/$LOCAL\"", &[]),
            ("echo it\\'s $LOCAL", &["$LOCAL"]),
            ("cat # $LOCAL", &[]),
            ("run $1 $? $$", &[]),
            ("run ${LOCAL%%+*}", &["${LOCAL%%+*}"]),
        ] {
            let found: Vec<&str> = unquoted(command).into_iter().map(|(_, variable)| variable).collect();
            assert_eq!(found, expected, "{command}");
        }
        assert_eq!(name_of("${LOCAL%%+*}"), "LOCAL");
        assert_eq!(name_of("$LOCAL"), "LOCAL");
    }

    #[test]
    fn the_program_that_reads_the_message() {
        for (command, reader) in [
            ("/usr/sbin/sendmail -i root", Some("/usr/sbin/sendmail")),
            ("IFS=' ' && exec 'procmail' -f- || exit 75 # x", Some("procmail")),
            ("cd /srv && umask 077; spamc | procmail", Some("spamc")),
            ("cat | sendmail", Some("cat")),
            ("sendmail root > /dev/null", Some("sendmail")),
            // Something other than the message, or it is unclear what.
            ("sendmail root < /etc/motd", None),
            ("echo news | sendmail root", None),
            ("$RUN; sendmail root", None),
            ("case $LOCAL in x) sendmail root;; esac", None),
        ] {
            assert_eq!(Command::parse(command).reader.map(|(_, program)| program), reader, "{command}");
        }
    }

    #[test]
    fn programs_and_outputs() {
        for (command, programs, outputs) in [
            ("/bin/grep -n '.*' >> /tmp/pipe.txt", &["/bin/grep"][..], &["/tmp/pipe.txt"][..]),
            ("cat>/tmp/x 2>/dev/null", &["cat"], &["/tmp/x", "/dev/null"]),
            (
                "A=1 B=2 run x | \"/usr/local/bin/news post\" && exit 3",
                &["run", "/usr/local/bin/news post", "exit"],
                &[],
            ),
            ("if test -f x; then /opt/one; else /opt/two; fi", &["test", "/opt/one", "/opt/two", "fi"], &[]),
            ("exec /opt/x < /dev/null", &["/opt/x"], &[]),
            ("$RUN x >> \"$FILE\"", &[], &[]),
            ("cat >> '/var/mail/a b'; # >> /x", &["cat"], &["/var/mail/a b"]),
            ("case x in y) /opt/z;; esac", &[], &[]),
        ] {
            let found = Command::parse(command);
            let words = |found: Vec<(usize, &'static str)>| found.into_iter().map(|(_, word)| word).collect::<Vec<_>>();
            assert_eq!(words(found.programs), programs, "{command}");
            assert_eq!(words(found.outputs), outputs, "{command}");
        }
    }
}
