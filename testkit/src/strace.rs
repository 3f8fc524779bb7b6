//! The log of strace as a list of system calls.

use std::collections::HashMap;
use std::path::Path;

/// A system call that has returned, or was the last that its process did not live to see return.
#[derive(Debug, Clone)]
pub struct Call {
    /// 0 where only one process was traced.
    pub pid: u32,
    /// As in `openat`.
    pub name: String,
    /// As strace prints them.
    pub arguments: Vec<String>,
    /// None if it did not return.
    pub result: Option<i64>,
    /// The name of the error that strace made of it.
    pub injected: Option<String>,
    /// How many calls of this name the process has made, this one included: what strace's `when=` counts.
    pub occurrence: usize,
}

impl Call {
    /// Whether it did what it was to do.
    pub fn succeeded(&self) -> bool {
        self.result.is_some_and(|result| result >= 0)
    }

    /// What the descriptor is that the call is about: a path, `socket:[N]`, `pipe:[N]`.
    pub fn descriptor(&self) -> Option<&str> {
        let first = self.arguments.first()?;
        let number = first.find('<')?;
        first[..number].parse::<u32>().ok()?;
        first[number + 1..].strip_suffix('>')
    }

    /// The bytes that an argument shows.
    pub fn bytes(&self, number: usize) -> Option<Vec<u8>> {
        let text = self.arguments.get(number)?.strip_prefix('"')?;
        Some(unescape(text.strip_suffix('"')?))
    }

    /// A path argument.
    pub fn path(&self, number: usize) -> Option<String> {
        String::from_utf8(self.bytes(number)?).ok()
    }

    /// The path of a call that makes, opens, removes or looks at a name.
    pub fn name_of_file(&self) -> Option<String> {
        self.path_in_folder(0).or_else(|| self.path(0))
    }

    /// Whether it opens a file or folder. Which of these calls does it, is the C library's affair.
    pub fn opens(&self) -> bool {
        matches!(&*self.name, "open" | "openat" | "openat2")
    }

    /// Both paths of a rename.
    pub fn renamed(&self) -> Option<(String, String)> {
        match &*self.name {
            "rename" => Some((self.path(0)?, self.path(1)?)),
            "renameat" | "renameat2" => Some((self.path_in_folder(0)?, self.path_in_folder(2)?)),
            _ => None,
        }
    }

    /// The path that a folder's descriptor and the name behind it stand for, as in openat(2); strace's `-y` shows what the
    /// descriptor is.
    fn path_in_folder(&self, number: usize) -> Option<String> {
        if !AT.contains(&&*self.name) {
            return None;
        }
        let (_, folder) = self.arguments.get(number)?.strip_suffix('>')?.split_once('<')?;
        Some(Path::new(folder).join(self.path(number + 1)?).to_str()?.to_owned())
    }

    /// Whether it has to do with this file or folder, or with one in it.
    pub fn concerns(&self, path: &Path) -> bool {
        let is_inside = |name: &str| Path::new(name).starts_with(path);
        self.descriptor().is_some_and(is_inside) || self.name_of_file().is_some_and(|name| is_inside(&name))
    }

    /// Whether it sends a reply that begins like this to the peer.
    pub fn sends(&self, reply: &str) -> bool {
        matches!(&*self.name, "sendto" | "write")
            && self.descriptor().is_some_and(|descriptor| descriptor.starts_with("socket:"))
            && self.bytes(1).is_some_and(|bytes| bytes.starts_with(reply.as_bytes()))
    }

    /// The call as a person wants to see it.
    pub fn brief(&self) -> String {
        let shorten = |argument: &String| argument.chars().take(100).collect::<String>();
        let arguments: Vec<_> = self.arguments.iter().take(3).map(shorten).collect();
        format!("{}({})", self.name, arguments.join(", "))
    }
}

/// Calls whose path counts from the folder in front of it.
const AT: [&str; 12] = [
    "faccessat",
    "faccessat2",
    "linkat",
    "mkdirat",
    "mknodat",
    "newfstatat",
    "openat",
    "openat2",
    "readlinkat",
    "renameat",
    "renameat2",
    "unlinkat",
];

/// Reads the log of strace, with or without `-f`.
pub fn parse(log: &[u8]) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished: HashMap<u32, String> = HashMap::new();
    let mut counts: HashMap<(u32, String), usize> = HashMap::new();
    for line in String::from_utf8_lossy(log).lines() {
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let pid = line[..digits].parse().unwrap_or(0);
        let text = line[digits..].trim_start();
        if text.starts_with("--- ") || text.starts_with("+++ ") {
            // A signal, or the end: no call.
        } else if let Some(begun) = text.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid, begun.to_owned());
        } else {
            let whole = text.strip_prefix("<... ").and_then(|resumed| {
                let (_, rest) = resumed.split_once(" resumed>")?;
                Some(unfinished.remove(&pid)? + rest)
            });
            let Some(mut call) = call(whole.as_deref().unwrap_or(text)) else { continue };
            let count = counts.entry((pid, call.name.clone())).or_default();
            *count += 1;
            (call.pid, call.occurrence) = (pid, *count);
            calls.push(call);
        }
    }
    calls
}

/// `name(arguments) = result`
fn call(text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (mut arguments, mut from) = (Vec::new(), 0);
    let (mut depth, mut at) = (0_u32, 0);
    loop {
        match rest.as_bytes().get(at)? {
            b'"' => {
                at += string(&rest[at..])?;
                continue;
            }
            b')' if depth == 0 => break,
            b',' if depth == 0 => {
                arguments.push(rest[from..at].trim_start_matches(' ').to_owned());
                from = at + 1;
            }
            b'(' | b'[' | b'{' | b'<' => depth += 1,
            b')' | b']' | b'}' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    arguments.push(rest[from..at].trim_start_matches(' ').to_owned());
    let result = rest[at + 1..].trim_start().strip_prefix("= ")?;
    let number = result.split(|sign: char| sign != '-' && !sign.is_ascii_digit()).next()?;
    let injected = result.contains("(INJECTED)").then(|| result.split(' ').nth(1).unwrap_or_default().to_owned());
    Some(Call { pid: 0, name: name.to_owned(), arguments, result: number.parse().ok(), injected, occurrence: 0 })
}

/// How many bytes the string has that begins here, with its quotes. Most of a log is in strings.
fn string(text: &str) -> Option<usize> {
    let mut length = 1;
    loop {
        length += text[length..].find('"')? + 1;
        let escapes = text[..length - 1].bytes().rev().take_while(|byte| *byte == b'\\').count();
        if escapes.is_multiple_of(2) {
            return Some(length);
        }
    }
}

/// Undoes the escapes of C that strace writes.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let Some((&kind, behind)) = rest.split_first() else { break };
        let digits = rest.iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
        if digits > 0 {
            let value = rest[..digits].iter().fold(0_u16, |value, digit| value * 8 + u16::from(digit - b'0'));
            bytes.push(u8::try_from(value).unwrap_or(b'?'));
            rest = &rest[digits..];
            continue;
        }
        rest = behind;
        bytes.push(match kind {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'f' => 12,
            other => other,
        });
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_parted_where_strace_parts_them() {
        for (line, arguments, result) in [
            (r#"write(7</a,b>, "a, \"b\"\\", 3) = 3"#, &["7</a,b>", r#""a, \"b\"\\""#, "3"][..], Some(3)),
            (
                r#"fstat(3, {st_mode=S_IFREG|0644, st_size=5}) = 0"#,
                &["3", "{st_mode=S_IFREG|0644, st_size=5}"],
                Some(0),
            ),
            ("getpid() = 17", &[""], Some(17)),
            (r#"read(4, "\")", 2) = -1 EIO (Input/output error) (INJECTED)"#, &["4", r#""\")""#, "2"], Some(-1)),
            ("poll([{fd=0, events=POLLIN}], 1, 5) = ?", &["[{fd=0, events=POLLIN}]", "1", "5"], None),
        ] {
            let call = call(line).unwrap();
            assert_eq!(
                (&call.arguments[..], call.result),
                (&arguments.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()[..], result)
            );
            assert_eq!(call.injected.as_deref(), line.ends_with("(INJECTED)").then_some("EIO"));
        }
        assert!(call(r#"write(1, "cut"#).is_none() && call("exit_group(0").is_none());
    }
}
