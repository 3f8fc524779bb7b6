//! A mailbox through the eyes of programs that read mailboxes. Messages of every kind that has ever led one of them astray
//! stand in one file, and each program finds as many as were sent, in their order, and all of them new.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use testkit::client::on_the_wire;
use testkit::debian::{self, USER, chown};
use testkit::{is_root, succeeds};

use crate::support::Scratch;

/// By `append`, and by a command that adds to a file, as the original's users had it.
#[test]
fn programs_find_the_messages_that_were_sent() {
    let scratch = Scratch::with_config(
        "domain mx.example\ndeliver rcpt_to file@mx.example append appended\n\
         deliver rcpt_to command@mx.example pipe cat >> piped\n",
    );
    let messages = messages();
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    for (number, message) in messages.iter().enumerate() {
        session.exchange(&format!("MAIL FROM:<{}>", sender(number)), "250 ");
        session.exchange("RCPT TO:<file@mx.example>", "250 ");
        session.exchange("RCPT TO:<command@mx.example>", "250 ");
        session.exchange("DATA", "354 ");
        session.send(on_the_wire(&message.text));
        session.send(".\r\n");
        session.expect("250 ");
    }
    session.quit();
    let senders: Vec<String> = (0..messages.len()).map(sender).collect();
    fs::create_dir(scratch.path("home")).unwrap();
    scratch.write("see", SEE);
    for file in ["appended", "piped"] {
        python_reads(&scratch, file, &messages);
        for (reader, find) in READERS {
            assert_eq!(find(&scratch, file), senders, "{reader} in the file that was {file}");
        }
        if is_root("to be another user for Dovecot") {
            assert_eq!(dovecot(&scratch, file), senders, "Dovecot in the file that was {file}");
        }
    }
}

/// Whom each message is from, as a program finds it in this file.
type Reader = fn(&Scratch, &str) -> Vec<String>;

const READERS: [(&str, Reader); 5] =
    [("formail", formail), ("Mail::Box", mail_box), ("mutt", mutt), ("s-nail", s_nail), ("git", git)];

/// To Python's `mailbox` none has a flag. It gives the bytes as they are, with `>` in front of quoted lines.
fn python_reads(scratch: &Scratch, file: &str, messages: &[Message]) {
    let script = "import mailbox, os, sys\n\
        os.mkdir('python')\n\
        for key, message in mailbox.mbox(sys.argv[1], create=False).items():\n\
        \x20   open(f'python/{key}', 'wb').write(mailbox.mbox(sys.argv[1]).get_bytes(key))\n\
        \x20   print(key, message.get_from().split()[0], message.get_flags())\n";
    let found = scratch.python(script, &[file]);
    let expected: Vec<String> = (0..messages.len()).map(|number| format!("{number} {} ", sender(number))).collect();
    assert_eq!(found.lines().collect::<Vec<_>>(), expected, "Python in {file}");
    for (number, message) in messages.iter().enumerate() {
        let bytes = fs::read(scratch.path(format!("python/{number}"))).unwrap();
        let text = unquoted(&bytes);
        let text = text.strip_prefix(&*trace(&text)).unwrap();
        assert!(text == message.arrives, "{}: {}", message.about, text[..text.len().min(1000)].escape_ascii());
    }
    fs::remove_dir_all(scratch.path("python")).unwrap();
}

fn formail(scratch: &Scratch, file: &str) -> Vec<String> {
    let formail = debian::program("procmail", "formail");
    seen(scratch, private(scratch, "sh", &["-c", "exec \"$0\" -s sh see <\"$1\"", formail.to_str().unwrap(), file]))
}

fn mail_box(scratch: &Scratch, file: &str) -> Vec<String> {
    let script = "use Mail::Box::Manager;\n\
        my $box = Mail::Box::Manager->new->open(folder => $ARGV[0], type => 'mbox', lock_type => 'NONE') or die;\n\
        print $_->head->get('Return-Path'), $_->label('seen') ? ' seen' : '', \"\\n\" for $box->messages;\n\
        $box->close(write => 'NEVER');\n";
    // The package has no program of its own.
    debian::file("libmail-box-perl", "usr/share/perl5/Mail/Box/Manager.pm");
    without_brackets(&succeeds(private(scratch, "perl", &["-e", script, file]), ""))
}

/// It needs a terminal, on which it tags all messages that are new and gives each of them to a command.
fn mutt(scratch: &Scratch, file: &str) -> Vec<String> {
    scratch.write(
        "muttrc",
        "set folder=home sort=mailbox-order move=no wait_key=no pipe_decode=no pipe_split=yes\n\
         push '<tag-pattern>~N<enter><tag-prefix><pipe-message>sh see<enter><exit>'\n",
    );
    // Unlike script(1), this types no end of input into it.
    let on_a_terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mutt = debian::program("mutt", "mutt");
    let arguments = ["-c", on_a_terminal, mutt.to_str().unwrap(), "-n", "-R", "-F", "muttrc", "-f", file];
    let mut command = private(scratch, debian::program("python3", "python3"), &arguments);
    command.env("TERM", "vt100");
    seen(scratch, command)
}

/// Its list has a line for each, with an `N` for those that nobody has seen.
fn s_nail(scratch: &Scratch, file: &str) -> Vec<String> {
    let s_nail = debian::program("s-nail", "s-nail");
    let mut command = private(scratch, s_nail, &["-n", "-R", "-H", "-f", file]);
    command.env("MAILRC", "/dev/null").env("TERM", "dumb");
    let list = succeeds(command, "");
    let sender = |line: &str| {
        let mut words = line.trim_start_matches('>').split_whitespace();
        (words.next() == Some("N")).then(|| words.nth(1).map(str::to_owned)).flatten()
    };
    list.lines().map(|line| sender(line).unwrap_or_else(|| line.to_owned())).collect()
}

fn git(scratch: &Scratch, file: &str) -> Vec<String> {
    fs::create_dir(scratch.path("git")).unwrap();
    let git = debian::program("git", "git");
    succeeds(private(scratch, git, &["mailsplit", "--keep-cr", "--mboxrd", "-ogit", file]), "");
    let mut files: Vec<_> = fs::read_dir(scratch.path("git")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    let return_path = |path: &PathBuf| {
        let text = fs::read(path).unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().find_map(|line| line.strip_prefix("Return-Path: ")).unwrap_or_default().to_owned()
    };
    let found = without_brackets(&files.iter().map(return_path).collect::<Vec<_>>().join("\n"));
    fs::remove_dir_all(scratch.path("git")).unwrap();
    found
}

/// It writes into the file what it knows of the messages, so it has one of its own.
fn dovecot(scratch: &Scratch, file: &str) -> Vec<String> {
    let folder = scratch.path("dovecot");
    let home = folder.join("home");
    fs::create_dir_all(&home).unwrap();
    fs::copy(scratch.path(file), home.join("inbox")).unwrap();
    for path in [&folder, &home, &home.join("inbox")] {
        chown(path, format!("{USER}:{USER}"));
    }
    // The folder of a test is for its owner only.
    succeeds(scratch.command("chmod", &["755", "."]), "");
    let (folder, home) = (folder.display(), home.display());
    let config = format!(
        "base_dir = {folder}\nstate_dir = {folder}\nlog_path = /dev/stderr\n\
         default_internal_user = {USER}\ndefault_internal_group = {USER}\ndefault_login_user = {USER}\n\
         mail_uid = {USER}\nmail_gid = {USER}\nfirst_valid_uid = 1\nfirst_valid_gid = 1\n\
         mail_location = mbox:{home}/mail:INBOX={home}/inbox:INDEX=MEMORY\n\
         namespace inbox {{\n  inbox = yes\n}}\n"
    );
    let mut command = debian::doveadm(&scratch.write("dovecot.conf", config));
    command
        .args(["-f", "tab", "fetch", "hdr.return-path flags", "mailbox", "INBOX", "all"])
        .env("HOME", scratch.path("home"));
    command.env("USER", USER);
    let found = succeeds(command, "");
    fs::remove_dir_all(scratch.path("dovecot")).unwrap();
    // Behind a line with the names of what was asked for.
    let lines = found.lines().skip(1).map(|line| line.strip_suffix("\t\\Recent").unwrap_or(line));
    without_brackets(&lines.collect::<Vec<_>>().join("\n"))
}

/// What `see` has noted when a program has given it all messages, one after the other.
fn seen(scratch: &Scratch, command: Command) -> Vec<String> {
    succeeds(command, "");
    let found = without_brackets(&scratch.read("seen"));
    fs::remove_file(scratch.path("seen")).unwrap();
    found
}

/// A program without the settings of whoever runs the tests.
fn private(scratch: &Scratch, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = scratch.command(program, arguments);
    command.env("HOME", scratch.path("home")).env("LC_ALL", "C");
    command
}

fn without_brackets(found: &str) -> Vec<String> {
    found.lines().map(|line| line.replace(['<', '>'], "").trim().to_owned()).collect()
}

fn sender(number: usize) -> String {
    format!("n{number}@b.example")
}

/// The lines of ours at the beginning of a message.
fn trace(message: &[u8]) -> Vec<u8> {
    message.split_inclusive(|byte| *byte == b'\n').take(4).flatten().copied().collect()
}

/// mboxrd, read.
fn unquoted(text: &[u8]) -> Vec<u8> {
    let unquoted = |line: &[u8]| {
        let quotes = line.iter().take_while(|byte| **byte == b'>').count();
        line[usize::from(quotes > 0 && line[quotes..].starts_with(b"From "))..].to_vec()
    };
    text.split_inclusive(|byte| *byte == b'\n').flat_map(unquoted).collect()
}

/// One of the messages, lines ended by LF.
struct Message {
    about: &'static str,
    text: Vec<u8>,
    /// What stands behind the lines of ours.
    arrives: Vec<u8>,
}

/// The messages. Those stand first to which that makes a difference.
fn messages() -> Vec<Message> {
    let as_sent = |about, text: &[u8]| Message { about, text: text.to_vec(), arrives: text.to_vec() };
    let amended = |about, text: &str, arrives: &str| Message {
        about,
        text: text.as_bytes().to_vec(),
        arrives: arrives.as_bytes().to_vec(),
    };
    let renamed = |about, fields: &str| {
        let behind = "Subject: fields\n\ntext\n";
        let renamed: String = fields.split_inclusive('\n').map(|line| format!("X-Original-{line}")).collect();
        amended(about, &format!("{fields}{behind}"), &format!("{renamed}{behind}"))
    };
    let separator = "From root@host.example Sat Nov 28 01:32:50 2026\n";
    vec![
        renamed("what is no message to IMAP servers", "X-IMAP: 1027634417 0000000064\nX-IMAPbase: 1 2 hidden\n"),
        renamed("the rest of the file", "Content-Length: 100000\n"),
        as_sent("ordinary", b"To: fred@mx.example\nSubject: ordinary\n\ntext\n"),
        renamed("a part of itself", "Content-Length: 1\n"),
        renamed("less than nothing", "content-length : -5\n"),
        renamed("more lines than there are", "Lines: 100000\n"),
        amended(
            "folded",
            "CONTENT-LENGTH:\n 100000\nLines:\n\t9\n\ntext\n",
            "X-Original-CONTENT-LENGTH:\n 100000\nX-Original-Lines:\n\t9\n\ntext\n",
        ),
        renamed("read and deleted", "Status: RO\nX-Status: D\n"),
        amended(
            "read, to whom a CR ends a line",
            "Subject: x\rStatus: RO\n\ntext\n",
            "Subject: x\rX-Original-Status: RO\n\ntext\n",
        ),
        renamed("numbered and labelled", "X-UID: 1\nX-Keywords: $Junk\nX-UIDL: 1\n"),
        renamed(
            "expunged",
            "X-Mozilla-Status: 0009\nX-Mozilla-Status2: 00000000\nX-Mozilla-Keys: x\nX-Evolution: 1-2\n",
        ),
        amended("nothing at all", "", "\n"),
        as_sent("no text", b"Subject: no text\n\n"),
        as_sent("header only", b"Subject: header only\n"),
        as_sent("no header", b"\nno header\n"),
        amended("text only", "text only,\nand: this as well\n", "\ntext only,\nand: this as well\n"),
        amended("no empty line", "Subject: x\ntext: none\nhello\n", "Subject: x\ntext: none\n\nhello\n"),
        amended(
            "separator in front",
            &format!("{separator}Subject: x\n\ntext\n"),
            &format!("X-Mailbox-Line: {separator}Subject: x\n\ntext\n"),
        ),
        amended(
            "quoted separator in front",
            &format!(">{separator}Subject: x\n\ntext\n"),
            &format!("X-Mailbox-Line: >{separator}Subject: x\n\ntext\n"),
        ),
        as_sent("only separators", format!("\n{}", separator.repeat(3)).as_bytes()),
        as_sent(
            "a mailbox",
            format!("Subject: x\n\n\n{separator}Subject: y\nTo: z\n\ny\n\n{separator}Subject: z\nTo: z\n\nz\n\n")
                .as_bytes(),
        ),
        as_sent("quoted", format!("Subject: x\n\n>{separator}>>{separator}\n >{separator}From \nFrom\n>\n").as_bytes()),
        as_sent("separator in a field", format!("Subject: x\n {separator}\t{separator}\ntext\n").as_bytes()),
        as_sent(
            "a message within",
            b"Subject: x\nMIME-Version: 1.0\nContent-Type: message/rfc822\n\nContent-Length: 5\nStatus: RO\n\ninner\n",
        ),
        as_sent(
            "a part without an end",
            b"Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\nFromage\n",
        ),
        as_sent("eight bits", b"Subject: \xfc\xff\n\n\xff\xfe\x80 \xc3\xa9\n"),
        as_sent("NUL", b"Subject: x\n\na\0b\n\0\n"),
        as_sent("bare CR", b"Subject: x\n\na\rFrom b\rc\n\r\n"),
        as_sent("a long line", [b"Subject: x\n\n".to_vec(), vec![b'x'; 200_000], b"\n".to_vec()].concat().as_slice()),
        as_sent("a long field", format!("Subject: {}\n\ntext\n", "x ".repeat(50_000)).as_bytes()),
        as_sent("folded", b"Subject: one\n two\n\tthree\n\ntext\n"),
        as_sent("dots", b"Subject: dots\n\n.\n..\n...\n"),
        as_sent("empty lines in front", b"\n\n\nSubject: x\n\ntext\n"),
        as_sent("empty lines at the end", b"Subject: x\n\ntext\n\n\n\n"),
        as_sent("large", [b"Subject: x\n\n".to_vec(), b"0123456789 text\n".repeat(65_536)].concat().as_slice()),
        as_sent("last", b"Subject: last\n\ntext\n"),
    ]
}

/// Adds to `seen` whom the message on standard input is from, and reads all of it.
const SEE: &str = "sed -n '1,/^$/s/^Return-Path: //p' >> seen\n";
