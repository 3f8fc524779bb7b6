//! An mbox file through the eyes of a reader, the most simple-minded there is: whatever line begins with `From ` begins a
//! message. What it sees has to be what was sent.

use std::sync::LazyLock;

use regex::Regex;

use crate::case::shown;

/// The messages of an mbox file, as lines that can be read and compared. Dates and ids have become words, and the
/// headers of a delivery from the usual sender to the usual recipient the line `<TRACE>`.
pub fn messages(file: &[u8]) -> Result<Vec<String>, String> {
    let rest = file.strip_suffix(b"\n").ok_or("the mailbox does not end with a line end")?;
    let mut messages: Vec<Vec<&[u8]>> = Vec::new();
    for line in rest.split(|byte| *byte == b'\n') {
        match (line.starts_with(b"From "), messages.last_mut()) {
            (true, _) => messages.push(vec![line]),
            (false, Some(message)) => message.push(line),
            (false, None) => return Err(format!("the mailbox begins with `{}`", shown(line))),
        }
    }
    messages.into_iter().map(message).collect()
}

fn message(mut lines: Vec<&[u8]>) -> Result<String, String> {
    static OURS: LazyLock<Regex> = LazyLock::new(|| Regex::new(TRACE).unwrap());
    if lines.pop() != Some(b"") {
        return Err("a message has no empty line behind it".to_owned());
    }
    let lines: Vec<String> = lines.into_iter().map(|line| shown(unquoted(line))).collect();
    let text = lines.join("\n") + "\n";
    let captures = OURS.captures(&text).ok_or_else(|| format!("these are not our headers:\n{text}"))?;
    let headers = without_variables(&captures[0]);
    let text = &text[captures[0].len()..];
    let headers = if headers == USUAL { "<TRACE>\n" } else { &headers };
    Ok([headers, text].concat())
}

/// mboxrd: one `>` less.
fn unquoted(line: &[u8]) -> &[u8] {
    let quotes = line.iter().take_while(|byte| **byte == b'>').count();
    if quotes > 0 && line[quotes..].starts_with(b"From ") { &line[1..] } else { line }
}

fn without_variables(headers: &str) -> String {
    let replace = |text: String, (pattern, word): &(Regex, &str)| pattern.replace_all(&text, *word).into_owned();
    VARIABLES.iter().fold(headers.to_owned(), replace)
}

/// What is different in each delivery, and the word that stands for it. Made once: to compile a pattern takes longer
/// than a session.
static VARIABLES: LazyLock<[(Regex, &str); 3]> = LazyLock::new(|| {
    [
        ("^(From [!-~]+) [A-Z][a-z]{2} [A-Z][a-z]{2} .*", "${1} <ASCTIME>"),
        ("(?m)((?:E?SMTPA?|LMTPA?) id [0-9a-f.]+|>); [A-Z][a-z]{2}, [^\n;]*$", "${1}; <DATE>"),
        ("(?m)^(\\\\tby [^ ]+ \\(mailrecv\\) with (?:E?SMTPA?|LMTPA?)) id [0-9a-f.]+", "${1} id <ID>"),
    ]
    .map(|(pattern, word)| (Regex::new(pattern).unwrap(), word))
});

/// What every delivery begins with: exactly these lines and no other, as they look through [`shown`]. No field body has
/// anything in it that could be a line's end to anybody.
const TRACE: &str = "^From [!-~]+ [A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [0-9]{4}\n\
    Return-Path: <[^\n]*>\n\
    (?:Delivered-To: [^\n]+\n)+\
    Received: from [^\n]+ \\([^\n()]+\\)\n\
    \\\\tby [^\n]+ \\(mailrecv\\) with (?:E?SMTPA?|LMTPA?) id [0-9a-f.]+(\n\\\\tfor <[^\n]+>)?; \
    [A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} [+-][0-9]{4}\n";

const USUAL: &str = "From a@b.example <ASCTIME>\n\
    Return-Path: <a@b.example>\n\
    Delivered-To: fred@mx.example\n\
    Received: from client.example (mail.example.net [192.0.2.7])\n\
    \\tby mx.example (mailrecv) with SMTP id <ID>\n\
    \\tfor <fred@mx.example>; <DATE>\n";
