//! What holds of the log after every run, whatever a peer did.

use std::sync::LazyLock;

use regex::Regex;

/// Each line is printable ASCII and has date, process and the peer's address in brackets, and no other bracket than the
/// peer's own address has. (The configurations of the corpus log everything there is.) Each reply has one record with
/// its code, in order; a peer that takes no replies may have been given up before the last of them.
pub fn check(log: &[u8], pid: i32, replies: Option<&[String]>) -> Result<(), String> {
    let text = std::str::from_utf8(log).map_err(|_| "the log is no text".to_owned())?;
    if !text.ends_with('\n') {
        return Err(format!("the log ends in the middle of a line: {text}"));
    }
    let pid = pid.to_string();
    let mut codes = Vec::new();
    for line in text[..text.len() - 1].split('\n') {
        let odd = || format!("an odd line in the log: {line:?}");
        let captures = FRAME.captures(line).filter(|found| found[1] == *pid).ok_or_else(odd)?;
        let record = &captures[2];
        let own = record.replace("[192.0.2.7]", "");
        if !line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || own.contains(['[', ']']) {
            return Err(odd());
        }
        if line.len() > LONGEST_LINE {
            return Err(format!("a line of {} bytes in the log", line.len()));
        }
        if line.contains(PASSWORD) {
            return Err(format!("a password in the log: {line}"));
        }
        let reply = |prefix| record.strip_prefix(prefix).filter(|text: &&str| text.as_bytes()[0].is_ascii_digit());
        let code = ["ERROR: ", "WARNING: ", "DEBUG: SMTP reply: "].into_iter().find_map(reply);
        codes.extend(code.map(|text| text[..3].to_owned()));
    }
    if text.matches("INFO: connection closed, ").count() != 1 {
        return Err(format!("the log does not say once that the connection is closed:\n{text}"));
    }
    let Some(replies) = replies else { return Ok(()) };
    let sent: Vec<&str> = replies.iter().filter(|line| &line[3..4] == " ").map(|line| &line[..3]).collect();
    if codes != sent {
        return Err(format!("replies {sent:?} are in the log as {codes:?}:\n{text}"));
    }
    Ok(())
}

/// Made once: to compile a pattern takes longer than a session.
static FRAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [0-9]{4} MAILRECV\[([0-9]+)\]: \[192\.0\.2\.7\] (.+)$",
    )
    .unwrap()
});

/// How each password ends that the corpus gives to AUTH, unasked (cases T9 and L9).
const PASSWORD: &str = "c2VjcmV0";

/// Untrusted text is cut to 400 bytes, each of which may take six characters; a delivery shows two addresses.
const LONGEST_LINE: usize = 2 * 6 * 400 + 512;
