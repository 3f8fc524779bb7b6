//! Mail that is shown in the log, and mail that nobody else wanted.

use testkit::client::on_the_wire;
use testkit::{Session, debian};

use crate::support::{CONFIG, MAILRECV, PEER, Scratch};

/// A mail as programs write it, and what somebody who reads the log gets of it.
#[test]
fn print_shows_a_mail_as_a_mail_program_does() {
    let scratch = Scratch::with_config("domain mx.example\nprint_lines 5\ndeliver rcpt_to * print\n");
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example", "ann@mx.example"]);
    session.send(on_the_wire(
        b"From: =?utf-8?q?J=C3=BCrgen?= <j@client.example>\n\
          To: Fred <fred@mx.example>,\n\tAnn <ann@mx.example>\n\
          Subject: =?iso-8859-1?b?R3L832U=?= [1/2] it's\n\
          Date: Sat, 28 Nov 2026 01:02:03 +0100\n\
          Content-Type: multipart/mixed; boundary=\"=_x\"\n\
          \n\
          for programs that know no parts\n\
          --=_x\n\
          Content-Type: multipart/alternative; boundary=y\n\
          \n\
          --y\n\
          Content-Type: text/plain; charset=iso-8859-15\n\
          Content-Transfer-Encoding: quoted-printable\n\
          \n\
          5 =A4 a month, that is=\n\x20what\tit costs.\n\
          \n=3D=3D=3D NEW EMAIL =3D=3D=3D\n[a] 'b' <c>\n5\n6\n7\n\
          --y\n\
          Content-Type: text/html\n\
          \n\
          <p>not shown</p>\n\
          --y--\n\
          --=_x\n\
          Content-Type: application/pdf; name=\"=?utf-8?q?=C3=BC.pdf?=\"\n\
          Content-Transfer-Encoding: base64\n\
          Content-Disposition: attachment\n\
          \n\
          aGVsbG8=\n\
          --=_x--\n",
    ));
    session.send(".\r\n");
    let reply = session.expect("250 2.0.0 ");
    session.quit();
    let id = reply.rsplit_once("id=").unwrap().1;
    let log = scratch.log();
    let size = log[4].strip_prefix("[192.0.2.7] | Size: ").unwrap();
    assert_eq!(
        log,
        [
            "=== NEW EMAIL ===",
            "Envelope sender: <sender@client.example>",
            "Envelope recipients: <fred@mx.example>, <ann@mx.example>",
            "Peer: 192.0.2.7 (mail.example.net)",
            &format!("Size: {size}"),
            &format!("Id: {id}"),
            "From: J\u{fc}rgen <j@client.example>",
            "To: Fred <fred@mx.example>, Ann <ann@mx.example>",
            "Subject: Gr\u{fc}\u{df}e [1/2] it's",
            "Date: Sat, 28 Nov 2026 01:02:03 +0100",
            "",
            "5 \u{20ac} a month, that is what\tit costs.",
            "",
            " === NEW EMAIL ===",
            "[a] 'b' <c>",
            "5",
            "=== 2 more lines of text (print_lines)",
            "=== Also in HTML: 16 bytes",
            "=== Attachment: \u{fc}.pdf, application/pdf, 5 bytes",
            "========================================",
        ]
        .map(|line| format!("[192.0.2.7] | {line}"))
    );
}

/// A page in HTML alone is text with its links and lists; a mail without a header is shown all the same.
#[test]
fn print_shows_html_and_mail_without_a_header() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * print\n");
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    session.send(
        "Content-Type: text/html; charset=utf-8\r\n\r\n<style>p {}</style><p>Dear&nbsp;<b>Fred</b>,</p>\
         <ul><li>one<li><a href='https://a.example/?x=1&amp;y'>two</a></ul>\r\n.\r\n",
    );
    session.expect("250 2.0.0 ");
    session.begin_message(&["fred@mx.example"]);
    session.send("hello world\r\n.\r\n");
    session.expect("250 2.0.0 ");
    session.quit();
    let log = scratch.log();
    let shown = |lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| format!("[192.0.2.7] | {line}")).collect();
        log.windows(lines.len()).any(|window| window == lines)
    };
    assert!(shown(&["", "Dear\u{a0}Fred,", "", "- one", "- two <https://a.example/?x=1&y>"]), "{log:#?}");
    assert!(shown(&["From: (none)", "To: (none)", "Subject: (none)", "Date: (none)", "", "hello world"]), "{log:#?}");
}

/// As it is, to its end, and with nothing in it that a program could take for a line of the log.
#[test]
fn print_raw_shows_the_message_without_its_teeth() {
    let scratch = Scratch::with_config("domain mx.example\ndebug +\ndeliver rcpt_to * print raw\n");
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    session.send(b"Subject: \x1b]0;title\x07\r\n\r\n[8.8.8.8] ERROR: 550 No one here\r\n=== NEW EMAIL ===\r\n\xffgr\xc3\xbc\xc3\x9fe [1]\r\n\r\nlast\r\n.\r\n");
    let reply = session.expect("250 2.0.0 ");
    session.quit();
    let id = reply.rsplit_once("id=").unwrap().1;
    assert_eq!(
        scratch.log(),
        [
            "[192.0.2.7] | === NEW EMAIL ===",
            "[192.0.2.7] | Envelope sender: <sender@client.example>",
            "[192.0.2.7] | Envelope recipients: <fred@mx.example>",
            "[192.0.2.7] | Peer: 192.0.2.7 (mail.example.net)",
            "[192.0.2.7] | Size: 98 bytes",
            &format!("[192.0.2.7] | Id: {id}"),
            "[192.0.2.7] | ",
            "[192.0.2.7] | Subject: <0x1b>]0;title<0x07>",
            "[192.0.2.7] | ",
            "[192.0.2.7] | <0x5b>8.8.8.8<0x5d> ERROR: 550 No one here",
            "[192.0.2.7] |  === NEW EMAIL ===",
            "[192.0.2.7] | <0xff>gr\u{fc}\u{df}e [1]",
            "[192.0.2.7] | ",
            "[192.0.2.7] | last",
            "[192.0.2.7] | ========================================",
            &format!(
                "[192.0.2.7] Mail id={id} from=<sender@client.example> to=<fred@mx.example> size=98 print 'raw': delivered"
            ),
        ]
    );
}

/// With the log on a full disk there is nowhere to print to: the sender keeps the mail.
#[test]
fn print_that_cannot_be_shown_is_no_delivery() {
    let scratch = Scratch::with_config("deliver rcpt_to * print\n");
    let mut command = scratch.command(MAILRECV, &["-c", "mailrecv.conf", "-l", "/dev/full"]);
    command.args(["--peer", PEER]);
    let mut session = Session::start(command);
    session.expect("220 ");
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with('4'), "{reply}");
    session.quit();
}

/// What was shown and then refused is said to be refused.
#[test]
fn print_says_what_became_of_a_message() {
    let scratch = Scratch::with_config(
        "domain mx.example\ndeliver rcpt_to fred@mx.example print\n\
         deliver rcpt_to fails@mx.example pipe cat > /dev/null; exit 75\n",
    );
    let mut session = scratch.greeted();
    let reply = session.deliver(&["fails@mx.example", "fred@mx.example"]);
    assert!(reply.starts_with("451 "), "{reply}");
    let log = scratch.log();
    assert!(log[log.len() - 2].starts_with("[192.0.2.7] | === NOT DELIVERED: "), "{log:?}");
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    assert_eq!(scratch.log().iter().filter(|line| line.contains("NOT DELIVERED")).count(), 1);
}

/// Mail that is shown in a log file, or that nobody else wanted, is on the disk before the 250 is, and so is the name of
/// the file, which was not there. (What is appended and put into maildirs is the fault suite's affair.)
#[test]
fn shown_mail_and_dead_letters_are_synced() {
    for (config, syncs) in [
        ("deliver rcpt_to * print\nlogfile destination\n", ["syncfs(", "syncfs("]),
        ("deliver rcpt_to * print\nlogfile destination # kept\n", ["fdatasync(", "fdatasync("]),
        ("deadletter_file destination\nlogfile stderr\n", ["fdatasync(", "fsync("]),
    ] {
        let scratch = Scratch::with_config(&format!("domain mx.example\nlimit.fcrdns_check off\n{config}"));
        if config.contains("# kept") {
            scratch.write("destination", "an older line\n");
        }
        let options = ["-f", "-y", "-o", "calls", "-e", "trace=write,fsync,fdatasync,syncfs,sendto"];
        let mut command = scratch.command(debian::program("strace", "strace"), &options);
        command.args([MAILRECV, "-c", CONFIG, "--peer", PEER]);
        let mut session = Session::start(command);
        session.expect("220 ");
        let reply = session.deliver(&["fred@mx.example"]);
        assert!(reply.starts_with("250 2.0.0 "), "{reply}");
        session.quit();
        let calls = scratch.read("calls");
        let folder = std::fs::canonicalize(scratch.path("")).unwrap();
        let last = |what: &str, path: &std::path::Path| {
            let path = format!("<{}>", path.display());
            let is_it = |(_, call): &(usize, &str)| call.contains(what) && call.contains(&path);
            calls.lines().enumerate().filter(is_it).last().map(|(at, _)| at)
        };
        let file = folder.join("destination");
        let of_name = if syncs[1] == "fsync(" { &folder } else { &file };
        let accepted = calls.lines().position(|call| call.contains("250 2.0.0 Message accepted"));
        assert!(last("write(", &file) < last(syncs[0], &file), "{config}:\n{calls}");
        for synced in [last(syncs[0], &file), last(syncs[1], of_name)] {
            assert!(synced.is_some() && synced < accepted, "{config}:\n{calls}");
        }
    }
}
