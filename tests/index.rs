//! Indexes of files with very many rules: with one, with a damaged one, with one of another file, and without, a session
//! decides the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::fs::{self, File, Permissions};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use mailrecv::address::Mailbox;
use mailrecv::config::{self, Trace, Who};
use mailrecv::peer::Peer;
use proptest::collection::vec;
use proptest::prelude::*;
use support::{CONFIG, MAILRECV, Scratch};
use testkit::is_root;

/// Where the index of the configuration is.
const INDEX: &str = ".mailrecv.conf.index";

/// Smaller files have no index.
const FILLER: usize = 33_000;

/// A configuration with so many plain rules and, at its end, a long comment.
fn with_rules(count: usize) -> String {
    let rules: String =
        (1..=count).map(|number| format!("deliver rcpt_to user{number}@mx.example append ./box{number}\n")).collect();
    format!("domain mx.example\ndebug c\n{rules}{}", filler())
}

fn filler() -> String {
    format!("# {}\n", "x".repeat(FILLER))
}

/// A folder with this configuration, written long ago.
fn scratch(config: &str) -> Scratch {
    let scratch = Scratch::new();
    write(&scratch.path(CONFIG), config);
    scratch
}

/// Writes a file over, so that it looks as if that was long ago.
fn write(path: &Path, text: impl AsRef<[u8]>) {
    let file = File::options().write(true).create(true).truncate(false).open(path).unwrap();
    file.set_len(text.as_ref().len() as u64).unwrap();
    file.write_all_at(text.as_ref(), 0).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
}

/// The exit status of `mailrecv check`, and what it says on standard output and standard error.
fn check(scratch: &Scratch, more: &[&str]) -> (i32, String, String) {
    let output = scratch.run(MAILRECV, &[&["-c", CONFIG, "check"], more].concat());
    let [said, complained] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code().unwrap(), said, complained)
}

#[track_caller]
fn make_index(scratch: &Scratch) {
    let (status, said, complained) = check(scratch, &["--index"]);
    assert_eq!(status, 0, "{said}{complained}");
    assert!(said.contains("index of"), "{said}");
}

/// The reply to this recipient, and what the log says of an index.
fn ask(scratch: &Scratch, recipient: &str) -> (String, String) {
    let _ = fs::remove_file(scratch.path(support::LOG));
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    let reply = session.ask(&format!("RCPT TO:<{recipient}>"));
    session.quit();
    let log = scratch.log();
    (reply, log.into_iter().filter(|line| line.contains("index")).collect::<Vec<_>>().join("\n"))
}

/// Where `explain` says that mail for this recipient goes.
fn explain(scratch: &Scratch, recipient: &str) -> String {
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "explain", "--peer", support::PEER, "--rcpt", recipient]);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn check_makes_an_index_and_sessions_use_it() {
    let scratch = scratch(&with_rules(1000));
    fs::set_permissions(scratch.path(CONFIG), Permissions::from_mode(0o640)).unwrap();
    let before = explain(&scratch, "user700@mx.example");
    let (status, said, complained) = check(&scratch, &["--index"]);
    let size = fs::metadata(scratch.path(INDEX)).unwrap().len();
    assert_eq!((status, &*said), (0, &*format!("{INDEX}: index of 1000 rules, {size} bytes\n")), "{complained}");
    assert_eq!(fs::metadata(scratch.path(INDEX)).unwrap().mode() & 0o777, 0o640);
    assert!(!complained.contains("index"), "{complained}");
    assert!(!check(&scratch, &[]).2.contains("index"));
    assert_eq!(explain(&scratch, "user700@mx.example"), before);
    for (recipient, code) in
        [("user1@mx.example", "250 "), ("USER1000@mx.example", "250 "), ("user1001@mx.example", "550 ")]
    {
        let (reply, log) = ask(&scratch, recipient);
        assert!(reply.starts_with(code), "{reply}");
        assert_eq!(log, "");
    }
    // All that a session reads of the lines by themselves is what stands around the rules and comments.
    let calls = scratch.path("calls");
    let arguments = ["-e", "trace=lseek", "-o", calls.to_str().unwrap(), MAILRECV, "-c", CONFIG, "--peer", "192.0.2.1"];
    scratch.run("strace", &arguments);
    let calls = fs::read_to_string(calls).unwrap();
    let end = with_rules(1000).len();
    assert!(calls.contains(&format!(", {end}, SEEK_SET)")), "{calls}");
}

#[test]
fn few_rules_need_no_index() {
    for (rules, text) in [(15, with_rules(15)), (600, with_rules(600).replace(&filler(), ""))] {
        let scratch = scratch(&text);
        write(&scratch.path(INDEX), "an old one");
        let (status, said, complained) = check(&scratch, &["--index"]);
        assert_eq!(status, 0, "{complained}");
        assert!(said.contains("no index needed"), "{rules}: {said}");
        assert!(!complained.contains("index"), "{rules}: {complained}");
    }
}

/// Neither size nor time tells that the file is another one.
#[test]
fn an_index_of_another_content_is_not_used() {
    let text = with_rules(100);
    let scratch = scratch(&text);
    make_index(&scratch);
    let version = |scratch: &Scratch| {
        let metadata = fs::metadata(scratch.path(CONFIG)).unwrap();
        (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino())
    };
    let before = version(&scratch);
    write(
        &scratch.path(CONFIG),
        text.replace("user77@mx.example append ./box77\n", "user7x@mx.example append ./box99\n"),
    );
    assert_eq!(version(&scratch), before);
    for (recipient, code) in
        [("user77@mx.example", "550 "), ("user7x@mx.example", "250 "), ("user78@mx.example", "250 ")]
    {
        let (reply, log) = ask(&scratch, recipient);
        assert!(reply.starts_with(code), "{recipient}: {reply}");
        let expected = "DEBUG: index .mailrecv.conf.index is of no use: the file was written to since it was made";
        assert_eq!(log, format!("[192.0.2.7] {expected}"));
    }
    assert!(explain(&scratch, "user7x@mx.example").contains("box99"));
    let (status, _, complained) = check(&scratch, &[]);
    assert_eq!(status, 0);
    let warning = "warning: the index .mailrecv.conf.index is of no use: the file was written to since it was made; \
                   run `mailrecv -c mailrecv.conf check --index` to make it anew\n";
    assert!(complained.contains(warning), "{complained}");
    assert_eq!(check(&scratch, &["--strict"]).0, 1);
    make_index(&scratch);
    assert_eq!(ask(&scratch, "user7x@mx.example").1, "");
}

/// An error is told as ever, whatever the index has to say, and no index is made of such a file.
#[test]
fn errors_are_what_they_are_without_an_index() {
    let text = with_rules(100);
    let scratch = scratch(&text);
    make_index(&scratch);
    let index = fs::read(scratch.path(INDEX)).unwrap();
    write(
        &scratch.path(CONFIG),
        text.replace("user77@mx.example append ./box77\n", "user77@mx.example append./box77 \n"),
    );
    let (status, _, complained) = check(&scratch, &["--index"]);
    assert_eq!(status, 78);
    assert!(complained.contains(":79:35: error: "), "{complained}");
    assert_eq!(fs::read(scratch.path(INDEX)).unwrap(), index);
    let mut session = scratch.session(&["--peer", "192.0.2.7"]);
    session.expect("421 4.3.5 ");
    assert_eq!(session.end(), (Vec::new(), 78));
}

#[test]
fn an_index_that_others_can_write_is_not_used() {
    let scratch = scratch(&with_rules(100));
    make_index(&scratch);
    let index = scratch.path(INDEX);
    let mode = |mode| fs::set_permissions(&index, Permissions::from_mode(mode)).unwrap();
    let log = || {
        let (reply, log) = ask(&scratch, "user77@mx.example");
        assert!(reply.starts_with("250 "), "{reply}");
        log
    };
    for (bits, is_used) in [(0o644, true), (0o400, true), (0o664, false), (0o646, false)] {
        mode(bits);
        assert_eq!(log().is_empty(), is_used, "{bits:o}");
    }
    mode(0o600);
    if is_root("an index of somebody else") {
        chown(&index, Some(65_534), None).unwrap();
        assert!(log().contains("it belongs to user 65534"));
        // It may be the owner of the file who made it, but then that file is not for root to read.
        chown(&index, Some(0), Some(65_534)).unwrap();
        assert_eq!(log(), "");
    }
    let other = scratch.path("other");
    fs::rename(&index, &other).unwrap();
    symlink(&other, &index).unwrap();
    assert_eq!(log(), "");
    if is_root("a link of somebody else") {
        std::os::unix::fs::lchown(&index, Some(65_534), None).unwrap();
        assert!(log().contains("is of no use: it cannot be read: "));
    }
    fs::remove_file(&index).unwrap();
    fs::create_dir(&index).unwrap();
    assert!(log().contains("is of no use: it is no regular file"));
    fs::remove_dir(&index).unwrap();
    nix::unistd::mkfifo(&index, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(log().contains("is of no use: it is no regular file"));
}

/// What `check` says to type works as it stands, whatever the configuration is called.
#[test]
fn the_command_that_check_names_can_be_typed() {
    let scratch = scratch("");
    let name = "it's a $(false) configuration";
    write(&scratch.path(name), with_rules(100));
    let said = scratch.run(MAILRECV, &["-c", name, "check", "--index"]);
    assert!(said.status.success(), "{said:?}");
    write(&scratch.path(name), with_rules(101));
    let said = scratch.run(MAILRECV, &["-c", name, "check"]);
    let warning = String::from_utf8(said.stderr).unwrap();
    let (_, command) = warning.split_once("run `mailrecv ").unwrap();
    let (arguments, _) = command.split_once("` to make it anew").unwrap();
    let typed = scratch.run("/bin/sh", &["-c", &format!("{MAILRECV} {arguments}")]);
    assert!(typed.status.success(), "{arguments}: {typed:?}");
    let said = scratch.run(MAILRECV, &["-c", name, "check"]);
    assert!(!String::from_utf8(said.stderr).unwrap().contains("is of no use"));
}

/// However an index is damaged: what the rules say is the same, and nothing comes to a halt.
#[test]
fn a_damaged_index_is_not_used() {
    let rules: String = (1..=100).map(|number| format!("deliver rcpt_to u{number} append b{number}\n")).collect();
    let scratch = scratch(&format!("domain mx.example\n{rules}{}", filler()));
    make_index(&scratch);
    let (path, index) = (scratch.path(CONFIG), scratch.path(INDEX));
    let whole = fs::read(&index).unwrap();
    let wanted = ["u1", "u50", "u100", "u101"];
    let as_ever = answers(&path, &wanted);
    assert!(as_ever.contains("append 'b50'") && as_ever.contains("Unknown"), "{as_ever}");
    let damaged = File::options().write(true).open(&index).unwrap();
    // The key is as long as all the rest, and any of its bytes as good as another.
    let places = (0..whole.len()).filter(|at| !(100..2000).contains(at) || at % 50 == 0);
    for at in places {
        damaged.write_all_at(&[whole[at] ^ (1 << (at % 8))], at as u64).unwrap();
        assert_eq!(answers(&path, &wanted), as_ever, "byte {at} of {}", whole.len());
        damaged.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    assert_eq!(answers(&path, &wanted), as_ever);
    for length in (0..whole.len()).rev().filter(|at| !(100..2000).contains(at) || at % 50 == 0) {
        damaged.set_len(length as u64).unwrap();
        assert_eq!(answers(&path, &wanted), as_ever, "cut to {length}");
    }
    damaged.write_all_at(&whole, 0).unwrap();
    damaged.write_all_at(b"more", whole.len() as u64).unwrap();
    assert_eq!(answers(&path, &wanted), as_ever);
}

/// Who has an index open that somebody writes over looks at the lines themselves.
#[test]
fn an_index_that_is_damaged_during_a_session_is_not_used() {
    let scratch = scratch(&with_rules(100));
    make_index(&scratch);
    let index = scratch.path(INDEX);
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<user1@mx.example>", "250 ");
    let length = fs::metadata(&index).unwrap().len();
    let damaged = File::options().write(true).open(&index).unwrap();
    damaged.write_all_at(&[0; 12 * 100], length - 12 * 100).unwrap();
    session.exchange("RCPT TO:<user2@mx.example>", "250 ");
    session.exchange("RCPT TO:<user101@mx.example>", "550 ");
    damaged.set_len(0).unwrap();
    session.exchange("RCPT TO:<user100@mx.example>", "250 ");
    // And where the file itself is another, nothing can be said any more.
    write(&scratch.path(CONFIG), with_rules(101));
    session.exchange("RCPT TO:<user3@mx.example>", "451 ");
    session.quit();
}

/// What stands above the rules counts, too: here that is in another file.
#[test]
fn an_index_is_not_used_where_the_lines_above_it_are_others() {
    let (in_folder, rules): (_, String) = (
        "deliver rcpt_to postmaster@mx.example append post/box\nallowgroup +l .*\n",
        (1..=100).map(|number| format!("deliver allowgroup +l rcpt_to user{number} append boxes/{number}\n")).collect(),
    );
    let scratch = scratch("domain mx.example\ndebug c\ninclude above\ninclude users\n");
    write(&scratch.path("above"), in_folder);
    write(&scratch.path("users"), rules + &filler());
    make_index(&scratch);
    assert!(scratch.path(".users.index").is_file() && !scratch.path(INDEX).exists());
    assert_eq!(ask(&scratch, "user77").1, "");
    let line = explain(&scratch, "user77");
    assert!(line.contains("line 77 of users"), "{line}");
    // The lines of one file are others, and the index is of the other file.
    write(&scratch.path("above"), format!("# {in_folder}{in_folder}"));
    assert_eq!(ask(&scratch, "user77").1, "");
    assert_eq!(explain(&scratch, "user77"), line);
    write(&scratch.path("above"), in_folder.replace("post/box", "elsewhere/box"));
    let (reply, log) = ask(&scratch, "user77");
    assert!(reply.starts_with("250 "), "{reply}");
    assert!(log.contains("index .users.index is of no use: lines above those that it is about"), "{log}");
    write(&scratch.path("above"), in_folder.replace("allowgroup +l .*\n", "allowgroup +m .*\n"));
    let (status, _, complained) = check(&scratch, &[]);
    assert_eq!((status, complained.matches("no group `+l`").count()), (78, 100), "{complained}");
    let said = answers(&scratch.path(CONFIG), &["user77"]);
    fs::remove_file(scratch.path(".users.index")).unwrap();
    assert_eq!(said, answers(&scratch.path(CONFIG), &["user77"]));
    assert_eq!(said.matches("no group `+l`").count(), 100, "{said}");
}

#[test]
fn whoever_makes_it_at_the_same_time_leaves_a_whole_one() {
    let scratch = scratch(&with_rules(2000));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..4).for_each(|_| make_index(&scratch)));
        }
        for _ in 0..4 {
            scope.spawn(|| {
                let wanted = ["user1", "user2000", "user2001"];
                let first = answers(&scratch.path(CONFIG), &wanted);
                (0..8).for_each(|_| assert_eq!(answers(&scratch.path(CONFIG), &wanted), first));
            });
        }
    });
    assert_eq!(ask(&scratch, "user2000").1, "");
    let names = fs::read_dir(scratch.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let left = names.filter(|name| name.to_string_lossy().starts_with('.')).count();
    assert_eq!(left, 1);
}

/// Who cannot write beside the file is told so, and so is who could make only what no session would believe.
#[test]
fn an_index_that_cannot_be_made() {
    if !is_root("a check by another user") {
        return;
    }
    let scratch = scratch(&with_rules(100));
    fs::set_permissions(scratch.path(""), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(scratch.path(CONFIG), Permissions::from_mode(0o644)).unwrap();
    let as_nobody = || {
        let mut command = scratch.command(MAILRECV, &["-c", CONFIG, "check", "--index"]);
        let output = command.uid(65_534).gid(65_534).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, complained) = as_nobody();
    assert_eq!(status, Some(71));
    assert!(complained.contains("its index cannot be made: sessions believe only what root wrote"), "{complained}");
    chown(scratch.path(CONFIG), Some(65_534), Some(65_534)).unwrap();
    let (status, complained) = as_nobody();
    assert_eq!(status, Some(71));
    assert!(complained.contains("its index cannot be made: Permission denied"), "{complained}");
    assert!(!scratch.path(INDEX).exists());
    chown(scratch.path(""), Some(65_534), None).unwrap();
    assert_eq!(as_nobody().0, Some(0));
    assert_eq!(fs::metadata(scratch.path(INDEX)).unwrap().uid(), 65_534);
}

/// What the configuration says of these recipients, or what is wrong with it.
fn answers(path: &Path, recipients: &[impl AsRef<str>]) -> String {
    let config = match config::load(path) {
        Ok(config) => config,
        Err(unusable) => return format!("{:?}", unusable.errors),
    };
    let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, 7));
    let peer = Peer { address: address.into(), hostname: Some("mail.example.net".to_owned()) };
    let mut said = format!("{:?}\n", config.rules.needs());
    for recipient in recipients {
        let recipient = recipient.as_ref();
        let full =
            if recipient.contains('@') { recipient.to_owned() } else { format!("{recipient}@{}", config.domain) };
        let (mailbox, mut trace) = (Mailbox::parse(&full).unwrap(), Trace::new(true));
        let routed = config.rules.route(&mailbox, Who::in_the_clear(&peer), &config.domain, &mut trace);
        let routed = routed.map(|destinations| {
            let shown = destinations.shown();
            shown.map(|(action, origin)| format!("{action} ({})", config.rules.origin(origin))).collect::<Vec<_>>()
        });
        said += &format!("{recipient}: {routed:?}\n");
        said.extend(trace.take(&config.rules).iter().map(|finding| format!("  {finding}\n")));
    }
    said
}

/// Lines of a configuration: many plain ones, or others.
fn lines() -> impl Strategy<Value = String> {
    let address = prop::sample::select(vec!["user", "USER", "user+x", "postmaster@"]);
    let beginning =
        prop::sample::select(vec!["deliver rcpt_to ", "deliver allowgroup +l rcpt_to ", "\tdeliver  rcpt_to "]);
    let destination =
        prop::sample::select(vec![" append boxes/", " maildir /var/mail/dirs/", "  append /home/x/../", " append b"]);
    let plain = (address, beginning, destination, 1..40_usize, 0..60_usize, any::<bool>()).prop_map(
        |(address, beginning, destination, first, count, has_comments)| {
            let rule = |number| {
                let comment = if has_comments && number % 7 == 0 { "\n  # and so on\n\n" } else { "\n" };
                format!("{beginning}{address}{number}@mx.example{destination}{number}{comment}")
            };
            (first..first + count).map(rule).collect::<String>()
        },
    );
    let other = prop::sample::select(vec![
        "# a comment\n",
        "\r\n",
        "deadletter_file letters\n",
        "deliver rcpt_to *@mx.example append rest\n",
        "error rcpt_to ^user1 550 Not here\n",
        "deliver rcpt_to \"user7\"@mx.example append quoted\n",
        "deliver rcpt_to user8@mx.example pipe cat\n",
        "deliver rcpt_to user9@mx.example append ${HOME:-x}/box\n",
        "copy rcpt_to user5 append copies\n",
        "include other\n",
        "deliver rcpt_to user3 append user3 # mine\n",
        "deliver rcpt_to user4 apend user4\n",
    ]);
    prop_oneof![3 => plain, 3 => other.prop_map(str::to_owned)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// With an index, with one of what the files were before, and without one, a configuration says the same.
    #[test]
    fn an_index_makes_no_difference(
        text in vec(lines(), 1..8),
        other in vec(lines(), 0..4),
        is_included_first in any::<bool>(),
        is_crlf in any::<bool>(),
        // Where the files change afterwards, from the front, and what is there then.
        edits in vec((any::<bool>(), 0..6000_usize, prop::sample::select(&b"#5x \n"[..])), 0..3),
    ) {
        let scratch = Scratch::new();
        let (path, included) = (scratch.path(CONFIG), scratch.path("other"));
        let first = if is_included_first { "include other\n" } else { "" };
        let mut text = format!("domain mx.example\nallowgroup +l .*\n{first}{}{}", text.concat(), filler());
        if is_crlf {
            text = text.replace('\n', "\r\n");
        }
        let other = format!("# the other\n{}{}", other.concat().replace("include other", "#"), filler());
        let (mut text, mut other) = (text.into_bytes(), other.into_bytes());
        write(&path, &text);
        write(&included, &other);
        let recipients: Vec<String> =
            (0..62).flat_map(|number| [format!("user{number}"), format!("user{number}+x@mx.example")]).collect();
        let remove = || {
            for name in [INDEX, ".other.index"] {
                let _ = fs::remove_file(scratch.path(name));
            }
        };
        let without = answers(&path, &recipients);
        let made = config::check(&path, true).indexes;
        prop_assert!(made.iter().all(Result::is_ok), "{made:?}");
        prop_assert_eq!(answers(&path, &recipients), without);
        for (is_main, at, byte) in edits {
            let (text, path) = if is_main { (&mut text, &path) } else { (&mut other, &included) };
            let at = at % text.len();
            text[at] = byte;
            write(path, text);
        }
        let with = answers(&path, &recipients);
        remove();
        prop_assert_eq!(with, answers(&path, &recipients));
    }
}
