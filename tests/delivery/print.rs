//! Mail that is shown in the log, and mail that nobody else wanted.

use testkit::{Session, debian};

use crate::support::{CONFIG, MAILRECV, PEER, Scratch};

#[test]
fn print_shows_the_message_in_the_log_without_its_teeth() {
    let scratch = Scratch::with_config("domain mx.example\ndebug +\ndeliver rcpt_to * print\n");
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    session.send(b"Subject: \x1b]0;title\x07\r\n\r\n[8.8.8.8] ERROR: 550 No one here\r\n\xffgr\xc3\xbc\xc3\x9fe\r\n\r\nlast\r\n.\r\n");
    let reply = session.expect("250 2.0.0 ");
    session.quit();
    let id = reply.rsplit_once("id=").unwrap().1;
    assert_eq!(
        scratch.log(),
        [
            "[192.0.2.7] | === NEW EMAIL ===",
            &format!("[192.0.2.7] | Id: {id}"),
            "[192.0.2.7] | From: <sender@client.example>",
            "[192.0.2.7] | To: <fred@mx.example>",
            "[192.0.2.7] | Subject: <0x1b><0x5d>0;title<0x07>",
            "[192.0.2.7] | ",
            "[192.0.2.7] | <0x5b>8.8.8.8<0x5d> ERROR: 550 No one here",
            "[192.0.2.7] | <0xff>grüße",
            "[192.0.2.7] | ",
            "[192.0.2.7] | last",
            "[192.0.2.7] | ========================================",
            &format!(
                "[192.0.2.7] Mail id={id} from=<sender@client.example> to=<fred@mx.example> size=75 print: delivered"
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
