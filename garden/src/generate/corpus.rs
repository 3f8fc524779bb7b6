//! Cases from files: payloads, raw sessions, cases of this project's `tests/hostile`, and ordinary mails.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::draft::{Draft, expect, send};
use crate::case::{Case, Part};
use crate::compare::text::with_replaced;
use crate::oracle::Guide;
use crate::payload::{self, Assignments, HEADING};

mod parts;
use parts::Parts;

/// The cases of a folder.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The cases, in the order of their file names.
    pub cases: Vec<Case>,
    /// The files without a case, and why.
    pub left_out: Vec<(PathBuf, String)>,
}

/// The cases of all files in a folder and its subfolders: see [`file()`]. Each is named by its path in the folder.
///
/// # Errors
///
/// The folder, or a file in it, cannot be read.
pub fn folder(folder: &Path) -> Result<Gathered> {
    let mut gathered = Gathered::default();
    for path in files(folder)? {
        let octets = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
        match file(&name, &octets) {
            Ok(cases) => gathered.cases.extend(cases),
            Err(why) => gathered.left_out.push((path, why)),
        }
    }
    Ok(gathered)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("reading the folder {}", folder.display()))?;
    entries.sort_unstable();
    for path in entries {
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// The cases of a file with this name. If it begins with the heading of a payload, it is one. `.eml` is an ordinary
/// mail, and `.txt` with lines that begin with `> ` is a case of `tests/hostile`. Anything else is what a client sends,
/// octet by octet.
///
/// # Errors
///
/// Why no case can be made of it.
pub fn file(name: &str, octets: &[u8]) -> Result<Vec<Case>, String> {
    if octets.len() > LARGEST {
        return Err(format!("more than {LARGEST} octets"));
    }
    if octets.starts_with(HEADING.as_bytes()) {
        let cases = payload::read(name, octets, &Assignments::new());
        return cases.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let case = match ending {
        "eml" => mail(&format!("mail/{}", word(stem)), octets)?,
        "txt" if octets.split(|octet| *octet == b'\n').any(|line| line.starts_with(b"> ")) => {
            session(&format!("hostile/{}", word(stem)), &hostile(octets)?)
        }
        _ => {
            // Inputs of this project's fuzzing begin with a digit that chooses a configuration.
            let sent = match octets {
                [b'0'..=b'9', sent @ ..] => sent,
                sent => sent,
            };
            session(&format!("session/{}", word(name)), sent)
        }
    };
    if case.units.is_empty() { Err("nothing is sent".to_owned()) } else { Ok(vec![case]) }
}

const LARGEST: usize = 1 << 20;

/// The text in a form for the name of a case.
fn word(text: &str) -> String {
    text.chars().map(|character| if character.is_ascii_graphic() { character } else { '_' }).collect()
}

/// A session of which only the client's octets are known. It is sent command by command, each text as one piece, and
/// waits for a reply wherever one comes if the server accepts everything. Each text gets a field with the token in
/// front. Addresses in this project's tests are replaced by those of the server.
pub fn session(name: &str, sent: &[u8]) -> Case {
    let sent = OWN.iter().fold(sent.to_vec(), |sent, (from, to)| with_replaced(&sent, from.as_bytes(), to.as_bytes()));
    let (mut guide, mut units, mut rest) = (Guide::new(), Vec::new(), sent.as_slice());
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(guide.piece(rest));
        rest = behind;
        let (part, replies) = guide.send(piece);
        units.push(send(part, piece));
        let code = if guide.is_in_text() { "354" } else { "" };
        units.extend((0..replies).map(|_| expect(code)));
        if guide.is_in_text() && replies > 0 {
            units.push(send(Part::Header, b"Subject: case __TOKEN__\r\n"));
        }
    }
    Case { name: name.to_owned(), units }
}

/// Addresses in this project's tests, and the placeholders that replace them.
const OWN: [(&str, &str); 2] = [("fred@mx.example", "__DEST__"), ("mx.example", "__HOST__")];

/// The octets of the `>` lines of a case of `tests/hostile`: `\r \n \t \0 \xHH \\`, and `<x*70>` for 70 times `x`.
fn hostile(octets: &[u8]) -> Result<Vec<u8>, String> {
    let text = str::from_utf8(octets).map_err(|_| "no text".to_owned())?;
    let mut sent = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        // What follows is the expected outcome.
        if line.starts_with("= ") {
            break;
        }
        let Some(line) = line.strip_prefix("> ") else { continue };
        let line = repeated(line).replace("\\0", "\\x00");
        sent.extend(crate::case::escaped::unescape(&line).map_err(|wrong| format!("line {number}: {wrong}"))?);
        if sent.len() > LARGEST {
            return Err(format!("more than {LARGEST} octets"));
        }
    }
    Ok(sent)
}

/// Expands each `<x*70>` in the line.
fn repeated(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some(at) = rest.find('<') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        match repetition(rest) {
            Some((what, times, length)) => {
                text.push_str(&what.repeat(times));
                rest = &rest[length..];
            }
            None => {
                text.push('<');
                rest = &rest[1..];
            }
        }
    }
    text.push_str(rest);
    text
}

/// The repeated text, how many times it is repeated, and the length of the notation, if the text begins with it.
fn repetition(text: &str) -> Option<(&str, usize, usize)> {
    let end = text.find('>')?;
    let (what, times) = text[1..end].split_once('*')?;
    let is_one = !what.is_empty() && !what.contains('<') && times.bytes().all(|octet| octet.is_ascii_digit());
    let times = times.parse().ok().filter(|times| *times <= LARGEST)?;
    is_one.then_some((what, times, end + 1))
}

/// An ordinary mail as a client sends it: without what a delivery added, with what a client adds if it is missing, and
/// with the token in its Subject and as the last line of its text.
///
/// # Errors
///
/// Why it is not an ordinary mail: it contains something that a client does not send to every server.
pub fn mail(name: &str, octets: &[u8]) -> Result<Case, String> {
    let text = octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(octets);
    let mut lines: Vec<&[u8]> = text.strip_suffix(b"\n").unwrap_or(text).split(|octet| *octet == b'\n').collect();
    for line in &mut lines {
        *line = line.strip_suffix(b"\r").unwrap_or(line);
    }
    if lines.first().is_some_and(|line| line.starts_with(b"From ")) {
        lines.remove(0);
    }
    if let Some(line) = lines.iter().find(|line| line.iter().any(|octet| !matches!(octet, b'\t' | b' '..=b'~'))) {
        return Err(format!("not plain ASCII: {}", crate::case::escaped::escape(&line[..line.len().min(60)])));
    }
    if lines.iter().any(|line| line.len() > 998) {
        return Err("a line of more than 998 octets".to_owned());
    }
    let separator = lines.iter().position(|line| line.is_empty()).unwrap_or(lines.len());
    let (header, body) = lines.split_at(separator);
    let mut draft = Draft::new().header(&[]);
    for field in fields(header)? {
        draft = draft.line(&field);
    }
    let parts = Parts::of(&fields(header)?, body.get(1..).unwrap_or_default())?;
    let transparent = body.iter().skip(1).flat_map(|line| {
        let dot: &[u8] = if line.starts_with(b".") { b"." } else { b"" };
        [dot, line, b"\r\n"].concat()
    });
    // Behind the last of several parts, or in encoded text, the token would not be part of the text.
    let token: &[u8] = if parts == Parts::None { b"__TOKEN__\r\n" } else { b"" };
    let text = transparent.chain(token.iter().copied()).collect::<Vec<u8>>();
    Ok(draft.text(&text).case(name))
}

/// The fields of a header in the form in which a client sends them, with their folded lines and ends.
fn fields(lines: &[&[u8]]) -> Result<Vec<Vec<u8>>, String> {
    let mut fields = named(lines)?;
    fields.retain(|(name, _)| !OF_A_DELIVERY.contains(&name.as_str()));
    for (name, _) in ONCE {
        if fields.iter().filter(|(known, _)| known == name).count() > 1 {
            return Err(format!("{name} more than once"));
        }
    }
    if fields.iter().filter(|(name, _)| name == "received").count() > MOST_HOPS {
        return Err(format!("more than {MOST_HOPS} Received"));
    }
    for (name, line) in ONCE {
        if !line.is_empty() && !fields.iter().any(|(known, _)| known == name) {
            fields.push(((*name).to_owned(), line.as_bytes().to_vec()));
        }
    }
    let has = |wanted: &str| fields.iter().any(|(name, _)| name.starts_with(wanted));
    if has("content-") && !has("mime-version") {
        fields.push(("mime-version".to_owned(), b"MIME-Version: 1.0\r\n".to_vec()));
    }
    for (name, field) in &mut fields {
        match name.as_str() {
            "subject" => {
                field.truncate(field.len() - 2);
                field.extend_from_slice(b" __TOKEN__\r\n");
            }
            "from" | "to" | "cc" | "reply-to" | "sender" => are_addresses(name, field)?,
            _ => {}
        }
    }
    Ok(fields.into_iter().map(|(_, field)| field).collect())
}

/// The fields of a header as they are, with their names in small letters.
fn named(lines: &[&[u8]]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
    for line in lines {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            let (_, field) = fields.last_mut().ok_or("a folded line in front of all fields")?;
            if line.iter().all(|octet| matches!(octet, b' ' | b'\t')) {
                return Err("a folded line of blanks".to_owned());
            }
            field.extend([line, &b"\r\n"[..]].concat());
            continue;
        }
        let text = String::from_utf8_lossy(line);
        let name = text.split_once(':').map(|(name, _)| name).unwrap_or_default();
        if name.is_empty() || !name.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-') {
            return Err(format!("no field: {text}"));
        }
        fields.push((name.to_ascii_lowercase(), [line, &b"\r\n"[..]].concat()));
    }
    Ok(fields)
}

/// Checks the addresses in a field that every server should take.
fn are_addresses(name: &str, field: &[u8]) -> Result<(), String> {
    if !field.contains(&b'@') && !field.ends_with(b";\r\n") {
        return Err(format!("{name} without a domain"));
    }
    let value = String::from_utf8_lossy(&field[name.len() + 1..]).replace("\r\n", "");
    mailparse::addrparse(value.trim()).map_err(|error| format!("{name}: {error}"))?;
    let mut behind_groups = value.split(';').skip(1).map(str::trim_start);
    if behind_groups.any(|rest| !rest.is_empty() && !rest.starts_with(',')) {
        return Err(format!("{name} with no comma behind a group"));
    }
    Ok(())
}

/// From this many hops on, servers suspect a loop.
const MOST_HOPS: usize = 15;

/// Fields that a delivery or a mail program adds, and that a client removes before sending.
const OF_A_DELIVERY: &[&str] = &[
    "return-path",
    "delivered-to",
    "x-original-to",
    "envelope-to",
    "x-envelope-to",
    "x-envelope-from",
    "bcc",
    "resent-bcc",
    "status",
    "x-status",
    "x-keywords",
    "x-uid",
    "x-mozilla-status",
    "x-mozilla-status2",
    "x-mozilla-keys",
    "content-length",
    "lines",
    "authentication-results",
    "received-spf",
    "x-spam-status",
    "x-spam-level",
    "x-spam-checker-version",
];

/// Fields that may occur once (RFC 5322, 3.6), and for those that every mail has the value if they are missing.
const ONCE: &[(&str, &str)] = &[
    ("date", "Date: Mon, 02 Nov 2026 10:20:30 +0000\r\n"),
    ("from", "From: Sender <sender@client.example>\r\n"),
    ("to", "To: Recipient <recipient@server.example>\r\n"),
    ("message-id", "Message-ID: <__TOKEN__@client.example>\r\n"),
    ("subject", "Subject: case\r\n"),
    ("cc", ""),
    ("sender", ""),
    ("reply-to", ""),
    ("in-reply-to", ""),
    ("references", ""),
    ("mime-version", ""),
    ("content-type", ""),
    ("content-transfer-encoding", ""),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Unit, escaped};
    use crate::oracle;

    fn sent(case: &Case) -> Vec<String> {
        let shown = |unit: &Unit| match unit {
            Unit::Send { octets, .. } => escaped::escape(octets),
            Unit::Expect { code } => format!("< {code}"),
            _ => "...".to_owned(),
        };
        case.units.iter().map(shown).collect()
    }

    #[test]
    fn a_raw_session_is_held_command_by_command() {
        let octets = b"0EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<fred@mx.example>\r\nDATA\r\na: b\r\n\r\nc\r\n.\r\nQUIT\r\nx";
        let cases = file("a b", octets).unwrap();
        assert_eq!(cases[0].name, "session/a_b");
        assert_eq!(
            sent(&cases[0]),
            [
                r"EHLO x\r\n",
                "< ",
                r"MAIL FROM:<>\r\n",
                "< ",
                r"RCPT TO:<__DEST__>\r\n",
                "< ",
                r"DATA\r\n",
                "< 354",
                r"Subject: case __TOKEN__\r\n",
                r"a: b\r\n\r\nc\r\n.\r\n",
                "< ",
                r"QUIT\r\n",
                "< ",
                "x",
            ]
        );
        let chunks = b"MAIL FROM:<>\r\nRCPT TO:<b@mx.example>\r\nBDAT 5\r\na\r\nb\nBDAT 0 LAST\r\nRSET\n";
        let case = session("x", chunks);
        assert_eq!(
            sent(&case)[2..],
            [r"RCPT TO:<b@__HOST__>\r\n", "< ", r"BDAT 5\r\n", r"a\r\nb\n", "< ", r"BDAT 0 LAST\r\n", "< ", r"RSET\n",]
        );
        assert!(file("x", b"").is_err());
    }

    #[test]
    fn a_hostile_case_is_what_its_peer_sends() {
        let text = "# a comment\n> EHLO <x*3>\\r\\n\n> MAIL FROM:<a*b@c>\\r\\n\n> NOOP \\0<\\x41*2>\\r\\n\n= any\n< 220\n> no\n";
        let case = &file("e01-x.txt", text.as_bytes()).unwrap()[0];
        assert_eq!(case.name, "hostile/e01-x");
        assert_eq!(sent(case), [r"EHLO xxx\r\n", "< ", r"MAIL FROM:<a*b@c>\r\n", "< ", r"NOOP \x00AA\r\n", "< "]);
    }

    #[test]
    fn an_ordinary_mail_is_sent_as_a_client_sends_it() {
        let text =
            b"From x Mon Nov  2 10:20:30 2026\nReturn-Path: <x@y.example>\nSubject: hello\n there\nFrom: a@b.example\n\
            Bcc: c@d.example\n\n.\n..x\nend";
        let case = mail("mail/x", text).unwrap();
        let expected = oracle::expected(&case);
        assert!(expected.is_definite(), "{expected}");
        let octets = String::from_utf8(expected.messages[0].octets.clone()).unwrap();
        let (header, body) = octets.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, ".\r\n..x\r\nend\r\n__TOKEN__\r\n");
        assert_eq!(
            header.lines().collect::<Vec<_>>(),
            [
                "Subject: hello",
                " there __TOKEN__",
                "From: a@b.example",
                "Date: Mon, 02 Nov 2026 10:20:30 +0000",
                "To: Recipient <recipient@server.example>",
                "Message-ID: <__TOKEN__@client.example>",
            ]
        );
    }

    #[test]
    fn what_is_no_ordinary_mail_is_left_out() {
        let long = format!("A: {}\n\n", "x".repeat(1000));
        for odd in [
            "A: \u{e9}\n",
            "a\rb\n",
            "A: \0\n",
            &long,
            "From: a@b\nFrom: c@d\n\n",
            "no field\n\n",
            " x\n\n",
            "From: root\n\n",
        ] {
            assert!(mail("x", odd.as_bytes()).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_folder_has_cases_and_what_is_left_out() {
        let folder = std::env::temp_dir().join(format!("garden-corpus-{}", std::process::id()));
        fs::create_dir_all(folder.join("b")).unwrap();
        let payload = payload::write(&Draft::new().case("of-its-own"));
        for (name, octets) in [
            ("b/x.eml", b"A: b\n\nc\n".to_vec()),
            ("c.eml", b"\xff".to_vec()),
            ("a.payload", payload.into()),
            ("z", b"NOOP\r\n".to_vec()),
        ] {
            fs::write(folder.join(name), octets).unwrap();
        }
        let gathered = super::folder(&folder);
        fs::remove_dir_all(&folder).unwrap();
        let gathered = gathered.unwrap();
        assert_eq!(
            gathered.cases.iter().map(|case| case.name.as_str()).collect::<Vec<_>>(),
            ["of-its-own", "mail/b/x", "session/z"]
        );
        assert_eq!(gathered.left_out.len(), 1);
        assert!(gathered.left_out[0].1.contains(r"\xff"));
    }

    /// Every input of this project's fuzzing and every hostile case becomes a case.
    #[test]
    fn the_corpora_of_this_project_are_cases() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (part, least) in [("fuzz/corpus/session", 300), ("tests/hostile/cases", 100)] {
            let folder = root.join(part);
            if !folder.is_dir() {
                continue;
            }
            let gathered = super::folder(&folder).unwrap();
            assert!(gathered.cases.len() >= least, "{part}: {} cases, {:?}", gathered.cases.len(), gathered.left_out);
            let texts = gathered.cases.iter().filter(|case| sent(case).iter().any(|step| step == "< 354")).count();
            assert!(texts * 5 > gathered.cases.len(), "{part}: {texts} with a text");
        }
    }
}
