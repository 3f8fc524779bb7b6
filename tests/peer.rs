//! Who the peer is : forward-confirmed names, with a name server of the test's own in namespaces of its
//! own; terminals; and what is no connection at all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and is nobody's interface"
)]

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{CONFIG, LOG, MAILRECV, Scratch};
use testkit::process::peak_memory;
use testkit::session::{attach, connection};
use testkit::{LOOPBACK, Process, Session, debian, is_root, output, repository};

const CONFIG_TEXT: &str = "domain mx.example\n\
    allowgroup +named ^mail\\.example$\n\
    deliver allowgroup +named rcpt_to named@mx.example append inbox\n\
    deliver rcpt_to fred@mx.example append inbox\n\
    debug h\n";

/// A session in a network of its own (tests/peer/network.py), with a peer at this address and names from this zone.
fn session(scratch: &Scratch, zone: &str, peer: &str) -> Session {
    let mut command = scratch.command("unshare", &["--mount", "--net"]);
    command.arg(debian::program("python3", "python3")).arg(repository::path("tests/peer/network.py"));
    command.args([zone, peer, MAILRECV, "-c", CONFIG, "-l", LOG]);
    Session::start(command)
}

const IPV4: &str = "192.0.2.7";
const IPV6: &str = "2001:db8::7";

/// Whether there can be namespaces here.
fn can_have_names() -> bool {
    is_root("a name server of the test's own")
}

/// Starts a session with a receiver that asks for no name, says HELO and returns what it is called.
fn name_in(zone: &str, peer: &str) -> (String, Scratch) {
    let scratch = Scratch::with_config(&format!("{CONFIG_TEXT}limit.fcrdns_check off\nlimit.dns_secs 60\n"));
    let mut session = session(&scratch, zone, peer);
    session.expect("220 mx.example ");
    let reply = session.exchange("HELO client.example", "250 mx.example Hello ");
    session.quit();
    (reply["250 mx.example Hello ".len()..].to_owned(), scratch)
}

/// Starts a session with a receiver that insists on a name; returns the answer to the first command and the log.
fn refusal_in(zone: &str, config: &str) -> (String, Vec<String>) {
    let scratch = Scratch::with_config(&format!("{CONFIG_TEXT}{config}"));
    let mut session = session(&scratch, zone, IPV4);
    session.expect("220 mx.example ");
    session.send("EHLO client.example\r\nMAIL FROM:<a@b.example>\r\n");
    let reply = session.reply();
    assert_eq!(session.line(), None, "the connection is closed behind {reply:?}");
    assert_eq!(session.end().1, 0);
    (reply, scratch.log())
}

/// Who comes through a NAT64 is the IPv4 host behind it: to look-ups, rules, headers and the log.
/// The sandbox after the look-up is one more around the first, and has to let a session do all that that one does.
#[test]
fn every_destination_is_delivered_to_behind_a_look_up() {
    if !can_have_names() {
        return;
    }
    let zone = "{'ptr': [[b'mail', b'example']], 'hosts': {'mail.example': ['192.0.2.7']}}";
    for sandbox in ["off", "on", "strict"] {
        let config = format!(
            "domain mx.example\nsandbox {sandbox}\nspool_dir .\n\
             deliver rcpt_to a@mx.example append mail/inbox\ndeliver rcpt_to b@mx.example maildir mail/dir\n\
             deliver rcpt_to c@mx.example maildir mail/new\ndeliver rcpt_to d@mx.example pipe cat > piped\n\
             deliver rcpt_to e@mx.example print\n"
        );
        let scratch = Scratch::with_config(&config);
        for folder in ["mail/dir/tmp", "mail/dir/new", "mail/dir/cur"] {
            std::fs::create_dir_all(scratch.path(folder)).unwrap();
        }
        let mut session = session(&scratch, zone, "192.0.2.7");
        session.expect("220 mx.example ");
        for size in [1, 6000] {
            session.begin_message(&["a@mx.example", "b@mx.example", "c@mx.example", "d@mx.example", "e@mx.example"]);
            session.send(format!("{}\r\n", "x".repeat(70)).repeat(size));
            session.send(".\r\n");
            let reply = session.reply();
            assert!(reply.starts_with("250 "), "sandbox {sandbox}, {size} lines: {reply} {:?}", scratch.log());
        }
        session.quit();
        assert_eq!((scratch.count_files("mail/dir/new"), scratch.count_files("mail/new/new")), (2, 2));
    }
}

#[test]
fn a_peer_behind_a_nat64_is_its_ipv4_address() {
    if !can_have_names() {
        return;
    }
    let zone = "{'ptr': [[b'mail', b'example']], 'hosts': {'mail.example': ['192.0.2.7']}}";
    let config = "domain mx.example\n\
        allowgroup +there net 64:ff9b::192.0.2.0/120\n\
        allowgroup +net 192.0.2.0/29\n\
        allowgroup +pattern ^192\\.0\\.2\\.7$\n\
        deliver allowgroup +there rcpt_to a@mx.example append a\n\
        deliver allowgroup +net rcpt_to b@mx.example append b\n\
        deliver allowgroup +pattern rcpt_to c@mx.example append c\n\
        deny remotehost ^64:\n\
        debug hs+\n";
    let scratch = Scratch::with_config(config);
    let mut session = session(&scratch, zone, "64:ff9b::c000:207");
    session.expect("220 mx.example ");
    assert_eq!(session.exchange("HELO client.example", "250 "), "250 mx.example Hello mail.example [192.0.2.7]");
    let reply = session.deliver(&["a@mx.example", "b@mx.example", "c@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    for file in ["a", "b", "c"] {
        assert!(scratch.read(file).contains(" (mail.example [192.0.2.7])\n"), "{}", scratch.read(file));
    }
    let queries = scratch.read("queries").to_ascii_lowercase();
    assert!(queries.contains("7.2.0.192.in-addr.arpa"), "{queries}");
    let log = scratch.log();
    assert!(log.len() > 10 && log.iter().all(|line| line.starts_with("[192.0.2.7] ")), "{log:?}");
}

#[test]
fn a_confirmed_name_counts_everywhere() {
    if !can_have_names() {
        return;
    }
    let zone = "{'ptr': [[b'mail', b'example']], 'hosts': {'mail.example': ['192.0.2.1', '192.0.2.7', '2001:db8::7']}}";
    for (address, literal) in [(IPV4, "192.0.2.7"), (IPV6, "IPv6:2001:db8::7")] {
        let scratch = Scratch::with_config(CONFIG_TEXT);
        let mut session = session(&scratch, zone, address);
        session.expect("220 mx.example ");
        let reply = session.deliver(&["named@mx.example"]);
        assert!(reply.starts_with("250 2.0.0 "), "{reply}");
        session.exchange("MAIL FROM:<>", "250 ");
        session.exchange("RCPT TO:<nobody@mx.example>", "550 5.1.1 ");
        session.quit();
        let received = format!("\nReceived: from client.example (mail.example [{literal}])\n");
        assert!(scratch.read("inbox").contains(&received), "{}", scratch.read("inbox"));
        let expected = [
            format!("[{address}] DEBUG: host name 'mail.example' is confirmed"),
            format!("[{address}] ERROR: 550 No one here by that name 'nobody@mx.example'"),
        ];
        assert_eq!(scratch.log(), expected);
        let reverse = if address == IPV4 {
            "7.2.0.192.in-addr.arpa".to_owned()
        } else {
            format!("7.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23))
        };
        let queries = scratch.read("queries").to_lowercase();
        assert_eq!(queries.lines().next().unwrap(), format!("udp 12 '{reverse}'"));
    }
}

/// What a stranger's zone says is read where there are no files, and what the peer says where no name server is within
/// reach either.
#[test]
fn answers_are_read_inside_a_sandbox() {
    if !can_have_names() {
        return;
    }
    let scratch = Scratch::with_config(CONFIG_TEXT);
    let mut command = scratch.command("unshare", &["--mount", "--net"]);
    command.arg(debian::program("python3", "python3")).arg(repository::path("tests/peer/network.py"));
    let zone = "{'ptr': [[b'mail', b'example']], 'hosts': {'mail.example': ['192.0.2.7']}}";
    command.args([zone, IPV4]).arg(debian::program("strace", "strace"));
    command.args(["-o", "trace", "-e", "trace=landlock_restrict_self,connect,recvfrom,read,/^open"]);
    let mut session = Session::start({
        command.args([MAILRECV, "-c", CONFIG, "-l", LOG]);
        command
    });
    session.expect("220 ");
    session.exchange("NOOP", "250 ");
    session.quit();
    let trace = scratch.read("trace");
    let sandboxes: Vec<_> = trace.match_indices("landlock_restrict_self(").map(|(at, _)| at).collect();
    let [first, second] = sandboxes[..] else { panic!("two sandboxes, one inside the other:\n{trace}") };
    let at = |call: &str| trace[first..].find(call).map_or(usize::MAX, |at| first + at);
    assert!(!trace[..first].contains("connect(") && at("connect(") < second, "{trace}");
    assert!(at("recvfrom(") < second && second < at("read(0, "), "{trace}");
    let opened: Vec<_> = trace[first..].lines().filter(|line| line.starts_with("open")).collect();
    // A folder that nothing can be read by (O_PATH), for the rule of the second one.
    assert!(matches!(opened[..], [root] if root.contains("\"/\"") && root.contains("O_PATH")), "{opened:?}:\n{trace}");
}

/// No name, one that leads elsewhere, one that leads nowhere, errors of the name server: the first command gets the
/// configured text, and the log says why.
#[test]
fn without_a_confirmed_name_the_first_command_is_refused() {
    if !can_have_names() {
        return;
    }
    let cases = [
        ("{}", "the address has no host name"),
        ("{'mode': 'nxdomain'}", "the address has no host name"),
        (
            "{'mode': 'about others', 'ptr': [[b'mail', b'example']], 'hosts': {'*': ['192.0.2.7']}}",
            "the address has no host name",
        ),
        (
            "{'ptr': [[b'mail', b'example']], 'hosts': {'mail.example': ['192.0.2.8', '2001:db8::7']}}",
            "the host name 'mail.example' does not lead back to the address",
        ),
        ("{'ptr': [[b'mail', b'example']]}", "the host name 'mail.example' does not lead back to the address"),
        ("{'mode': 'servfail'}", "the host name look-up failed: the name server answered: server failure"),
        ("{'mode': 'refused'}", "the host name look-up failed: the name server answered: refused"),
        (
            "{'ptr': [[b'mail', b'example']], 'mode': 'loop'}",
            "the host name look-up failed: the name server gave a garbled answer",
        ),
        ("{'mode': 'truncated, no TCP'}", "the host name look-up failed: Connection refused (os error 111)"),
    ];
    for (zone, why) in cases {
        let (reply, log) = refusal_in(zone, "");
        assert_eq!(reply, "450 Failed FcrDNS, try again later", "{zone}");
        let log = log.into_iter().find(|line| line.contains("ERROR")).unwrap();
        let expected = format!("[192.0.2.7] ERROR: 450 Failed FcrDNS, try again later ({why})");
        assert_eq!(log, expected, "{zone}");
    }
    let (reply, _) = refusal_in("{}", "limit.fcrdns_check on 550 5.7.25 No name, no mail\n");
    assert_eq!(reply, "550 5.7.25 No name, no mail");
}

/// Who comes from a private network often has no name, and cannot get one.
#[test]
fn a_private_network_needs_no_names_unless_all_do() {
    if !can_have_names() {
        return;
    }
    for peer in ["192.168.1.7", "10.0.0.7", "172.16.0.7", "100.64.0.7", "169.254.1.7", "fd00::7", "fe80::7"] {
        let scratch = Scratch::with_config(CONFIG_TEXT);
        let mut session = session(&scratch, "{}", peer);
        session.expect("220 mx.example ");
        session.exchange("HELO scanner", &format!("250 mx.example Hello unknown [{peer}]"));
        session.exchange("MAIL FROM:<a@b.example>", "250 ");
        // A rule about names is about none of them.
        session.exchange("RCPT TO:<named@mx.example>", "550 ");
        session.quit();
        let scratch = Scratch::with_config(&format!("{CONFIG_TEXT}limit.fcrdns_check strict\n"));
        let mut session = self::session(&scratch, "{}", peer);
        session.expect("220 mx.example ");
        session.exchange("HELO scanner", "450 Failed FcrDNS, try again later");
    }
    for (peer, check, is_taken) in
        [("172.32.0.7", "on", false), ("100.128.0.7", "on", false), ("172.32.0.7", "off", true)]
    {
        let scratch = Scratch::with_config(&format!("{CONFIG_TEXT}limit.fcrdns_check {check}\n"));
        let mut session = session(&scratch, "{}", peer);
        session.expect("220 mx.example ");
        session.exchange("HELO scanner", if is_taken { "250 " } else { "450 Failed FcrDNS, try again later" });
    }
}

/// An address can have several names, and the name server of one be out of order.
#[test]
fn any_of_several_names_may_confirm() {
    if !can_have_names() {
        return;
    }
    let ptr = "'ptr': [[b'dead', b'example'], [b'other', b'example'], [b'mail', b'example']], 'dead': ['dead.example']";
    let zone = format!("{{{ptr}, 'hosts': {{'mail.example': ['192.0.2.7']}}}}");
    let scratch = Scratch::with_config(CONFIG_TEXT);
    let mut session = session(&scratch, &zone, IPV4);
    session.expect("220 mx.example ");
    session.exchange("EHLO client.example", "250-mx.example Hello mail.example ");
    session.quit();
    let (_, log) = refusal_in(&format!("{{{ptr}}}"), "");
    let log = log.into_iter().find(|line| line.contains("ERROR")).unwrap();
    assert!(log.ends_with("(the host name look-up failed: the name server answered: server failure)"), "{log}");
}

/// With the check off such a peer is `unknown`, and no rule about names is about it.
#[test]
fn without_the_check_an_unconfirmed_name_matches_nothing() {
    if !can_have_names() {
        return;
    }
    let zone = "{'ptr': [[b'mail', b'example']], 'hosts': {'mail.example': ['192.0.2.8']}}";
    let scratch = Scratch::with_config(&format!("{CONFIG_TEXT}limit.fcrdns_check off\n"));
    let mut session = session(&scratch, zone, IPV4);
    session.expect("220 ");
    session.exchange("HELO client.example", "250 mx.example Hello unknown [192.0.2.7]");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<named@mx.example>", "550 Remote not configured to deliver for this address");
    session.exchange("RCPT TO:<fred@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.exchange("x\r\n.", "250 ");
    session.quit();
    assert!(scratch.read("inbox").contains("\nReceived: from client.example (unknown [192.0.2.7])\n"));
}

/// Whoever holds an address chooses what its reverse entry says (cases B.6). All of these names would be confirmed.
#[test]
fn hostile_names_are_no_names() {
    if !can_have_names() {
        return;
    }
    for labels in [
        r"[b'evil\nname', b'example']",
        r"[b'cr\r\nlf', b'example']",
        r"[b'esc\x1b[31m', b'example']",
        r"[b'nul\0x', b'example']",
        "[b'a b', b'example']",
        "[b'x ip=198.51.100.7 ', b'example']",
        "[b'[192.0.2.1]']",
        "[b'] ERROR: 550 No one here', b'example']",
        "[b'with.dot', b'example']",
        "[b'mail.example']",
        "[b'192', b'0', b'2', b'99']",
        "[b'127', b'0', b'0', b'1']",
        "[b'a', b'1']",
        "[b'::1']",
        "[b'unknown']",
        "[b'UNKNOWN']",
        "[b'$(id)', b'example']",
        "[b'%s%n%x', b'example']",
        "[b'<script>', b'example']",
        r"[b'gr\xc3\xbc', b'example']",
        r"[b'\xff', b'example']",
        "[b'-dash', b'example']",
        "[b'dash-', b'example']",
        "[b'*', b'example']",
        "[b'(local-tty)']",
        "[]",
        // Shaped like addresses, in ways that some reader of addresses accepts.
        "[b'0x7f', b'1']",
        "[b'2130706433']",
        "[b'127', b'1']",
        "[b'0300', b'0', b'2', b'7']",
        r"[b'192\xe3\x80\x820', b'2', b'7']",
    ] {
        let (name, scratch) = name_in(&format!("{{'ptr': [{labels}], 'hosts': {{'*': ['192.0.2.7']}}}}"), IPV4);
        assert_eq!(name, "unknown [192.0.2.7]", "{labels}");
        let log = scratch.log();
        let [line] = &log[..] else { panic!("{labels}: {log:?}") };
        assert!(line.starts_with("[192.0.2.7] DEBUG: the host name '"), "{labels}: {line}");
        assert!(line.contains("' does not count: "), "{labels}: {line}");
    }
}

/// The log says what it is that is wrong with a name, also with one in /etc/hosts that nobody else knows better.
#[test]
fn a_name_that_does_not_count_is_told_with_its_reason() {
    if !can_have_names() {
        return;
    }
    let hosts = "'hosts': {'*': ['192.0.2.7']}";
    for (zone, why) in [
        (
            format!("{{'ptr': [[b'a b', b'example']], {hosts}}}"),
            "'a\\ b.example' does not count: host names have letters, digits, hyphens, underscores and dots",
        ),
        (
            format!("{{'ptr': [[b'10', b'0', b'0', b'1']], {hosts}}}"),
            "'10.0.0.1' does not count: it looks like an address",
        ),
        (format!("{{'ptr': [[b'unknown']], {hosts}}}"), "'unknown' does not count: that is a word for who has none"),
        (
            "{'/etc/hosts': '192.0.2.7 -mail alias\\n'}".to_owned(),
            "'-mail' does not count: a part of it begins or ends with a hyphen",
        ),
        (
            format!("{{'/etc/hosts': '192.0.2.7 {}.example\\n'}}", "x".repeat(64)),
            "'XXX.example' does not count: a part of it has more than 63 characters",
        ),
        (
            format!("{{'/etc/hosts': '192.0.2.7 {}example\\n'}}", "x.".repeat(124)),
            "'YYYexample' does not count: it has more than 253 characters",
        ),
    ] {
        let why = why.replace("XXX", &"x".repeat(64)).replace("YYY", &"x.".repeat(124));
        let (reply, log) = refusal_in(&zone, "");
        assert_eq!(reply, "450 Failed FcrDNS, try again later", "{zone}");
        assert_eq!(log[0], format!("[192.0.2.7] DEBUG: the host name {why}"), "{zone}");
        let expected = format!("[192.0.2.7] ERROR: 450 Failed FcrDNS, try again later (the host name {why})");
        assert_eq!(log[1], expected, "{zone}");
    }
}

/// Containers that are made by docker compose have such names, and so have hosts of some providers.
#[test]
fn an_underscore_may_be_in_a_name_that_is_confirmed() {
    if !can_have_names() {
        return;
    }
    let ptr = "'ptr': [[b'web_mail_1', b'project_default']]";
    for zone in [
        format!("{{{ptr}, 'hosts': {{'web_mail_1.project_default': ['192.0.2.7']}}}}"),
        "{'/etc/hosts': '192.0.2.7 web_mail_1.project_default\\n'}".to_owned(),
    ] {
        let (name, _) = name_in(&zone, IPV4);
        assert_eq!(name, "web_mail_1.project_default [192.0.2.7]", "{zone}");
    }
    let (_, log) = refusal_in(&format!("{{{ptr}, 'hosts': {{}}}}"), "");
    let why = "the host name 'web_mail_1.project_default' does not lead back to the address";
    assert_eq!(log[0], format!("[192.0.2.7] DEBUG: {why}"));
}

/// Odd but sound: several names of which a later one is the right one, aliases on the way, an answer that needs TCP, a
/// name in another case, one of 63 letters, many addresses, forgeries before the answer.
#[test]
fn names_are_found_on_winding_ways() {
    if !can_have_names() {
        return;
    }
    let confirmed = "'hosts': {'mail.example': ['192.0.2.7']}";
    for zone in [
        format!("{{'ptr': [[b'bad name'], [b'other', b'example'], [b'mail', b'example']], {confirmed}}}"),
        format!("{{'ptr': [[b'mail', b'example']], {confirmed}, 'mode': 'classless'}}"),
        format!("{{'ptr': [[b'mail', b'example']], {confirmed}, 'mode': 'chain'}}"),
        format!("{{'ptr': [[b'mail', b'example']], {confirmed}, 'mode': 'truncated'}}"),
        format!("{{'ptr': [[b'mail', b'example']], {confirmed}, 'mode': 'noise'}}"),
        format!(
            "{{'ptr': [[b'mail', b'example']], 'hosts': {{'mail.example': [{}'192.0.2.7']}}}}",
            (1..200).map(|n| format!("'198.51.100.{n}', ")).collect::<String>()
        ),
        // The first server says nothing.
        format!(
            "{{'ptr': [[b'mail', b'example']], {confirmed}, \
             'resolv.conf': 'nameserver 127.0.0.9\\nnameserver 127.0.0.1\\noptions timeout:3\\n'}}"
        ),
    ] {
        let (name, scratch) = name_in(&zone, IPV4);
        assert_eq!(name, "mail.example [192.0.2.7]", "{zone}\n{}", scratch.read("queries"));
    }
    let long = "a".repeat(63);
    let (name, _) = name_in(&format!("{{'ptr': [[b'{long}', b'Example']], 'hosts': {{'*': ['192.0.2.7']}}}}"), IPV4);
    assert_eq!(name, format!("{long}.Example [192.0.2.7]"));
}

/// A name in a zone, of labels with so many letters.
fn labels_of(lengths: &[usize]) -> String {
    let labels: Vec<String> = lengths.iter().map(|length| format!("b'{}'", "x".repeat(*length))).collect();
    format!("[{}]", labels.join(", "))
}

/// The longest names that there can be, and longer ones.
#[test]
fn names_have_253_letters_at_most() {
    if !can_have_names() {
        return;
    }
    for lengths in [&[63, 63, 63, 61][..], &[1; 127]] {
        let zone = format!("{{'ptr': [{}], 'hosts': {{'*': ['192.0.2.7']}}}}", labels_of(lengths));
        let (name, _) = name_in(&zone, IPV4);
        let expected = lengths.iter().map(|length| "x".repeat(*length)).collect::<Vec<_>>().join(".");
        assert_eq!(expected.len(), 253);
        assert_eq!(name, format!("{expected} [192.0.2.7]"));
    }
    // An answer with a longer one is no answer.
    for lengths in [&[63, 63, 63, 62][..], &[1; 128]] {
        let zone = format!("{{'ptr': [{}], 'hosts': {{'*': ['192.0.2.7']}}}}", labels_of(lengths));
        let (name, scratch) = name_in(&zone, IPV4);
        assert_eq!(name, "unknown [192.0.2.7]");
        let log = scratch.log().join("\n");
        assert!(log.starts_with("[192.0.2.7] DEBUG: the host name look-up failed: "), "{log}");
    }
}

/// Whoever holds an address can give it any number of names; only a few of them are looked up.
#[test]
fn an_address_with_many_names_costs_few_queries() {
    if !can_have_names() {
        return;
    }
    let names: String = (1..=100).map(|number| format!("[b'n{number}', b'example'], ")).collect();
    for (right, found) in [(5, true), (6, false), (100, false)] {
        let zone = format!("{{'ptr': [{names}], 'hosts': {{'n{right}.example': ['192.0.2.7']}}}}");
        let (name, scratch) = name_in(&zone, IPV4);
        let expected = if found { format!("n{right}.example [192.0.2.7]") } else { "unknown [192.0.2.7]".to_owned() };
        assert_eq!(name, expected);
        let queries = scratch.read("queries");
        assert!(queries.lines().count() <= 1 + 5 + 1, "{queries}");
    }
}

/// What an answer costs does not grow with what it holds: a zone that makes the most of 64 KiB over TCP takes no more
/// memory than one with a single name.
#[test]
fn an_answer_with_very_many_names_takes_little_memory() {
    if !can_have_names() {
        return;
    }
    let peak = |zone: &str| {
        let scratch = Scratch::with_config(&format!("{CONFIG_TEXT}limit.fcrdns_check off\n"));
        let mut session = session(&scratch, zone, IPV4);
        session.expect("220 mx.example ");
        session.exchange("HELO client.example", "250 mx.example Hello ");
        let peak = peak_memory(session.pid()).unwrap();
        session.quit();
        peak
    };
    let one = peak("{'ptr': [[b'mail', b'example']], 'hosts': {'mail.example': ['192.0.2.7']}}");
    let very_many = peak("{'mode': 'hoard'}");
    assert!(very_many <= one + 256, "{very_many} KiB instead of {one} KiB");
}

/// An answer has to repeat the question to the letter's case, which is chosen at random each time: one more thing that
/// somebody who forges answers has to guess.
#[test]
fn an_answer_repeats_the_question_as_it_was_asked() {
    if !can_have_names() {
        return;
    }
    let zone =
        |mode: &str| format!("{{'mode': '{mode}', 'ptr': [[b'mail', b'example']], 'hosts': {{'*': ['192.0.2.7']}}}}");
    let (name, scratch) = name_in(&zone("forged in another case"), IPV4);
    assert_eq!(name, "mail.example [192.0.2.7]");
    let queries = scratch.read("queries");
    let names: String = queries.lines().filter_map(|query| query.split_once('\'')).map(|(_, name)| name).collect();
    assert!(names.contains(char::is_lowercase) && names.contains(char::is_uppercase), "{queries}");

    let (name, scratch) = name_in(&zone("another case only"), IPV4);
    assert_eq!(name, "unknown [192.0.2.7]");
    let why = "the name server does not repeat the question as it was asked, capital letters included";
    assert_eq!(scratch.log(), [format!("[192.0.2.7] DEBUG: the host name look-up failed: {why}")]);
}

/// A name server of those that people run repeats the question as it was asked, also when it knows the answer already
/// and had been asked with other capital letters.
#[test]
fn unbound_repeats_the_question_as_it_was_asked() {
    if !can_have_names() {
        return;
    }
    let scratch = Scratch::with_config(CONFIG_TEXT);
    scratch.write("unbound.conf", UNBOUND);
    let zone = format!(
        "{{'ptr': [[b'mail', b'example']], 'hosts': {{'mail.example': ['192.0.2.7']}}, \
         'resolv.conf': 'nameserver 127.0.0.2\\n', 'forwarder': ['{}', '-d', '-c', 'unbound.conf']}}",
        debian::program("unbound", "unbound").display()
    );
    let mut session = session(&scratch, &zone, IPV4);
    session.expect("220 mx.example ");
    session.exchange("EHLO client.example", "250-mx.example Hello mail.example [192.0.2.7]");
    session.quit();
}

/// A router that hands out its own link-local address for a name server is found on its link only.
#[test]
fn a_name_server_may_have_a_link_local_address() {
    if !can_have_names() {
        return;
    }
    for (server, is_found) in [("fe80::53%lo", true), ("fe80::53%1", true), ("fe80::53%nowhere0", false)] {
        let scratch = Scratch::with_config(&format!("{CONFIG_TEXT}limit.fcrdns_check off\nlimit.dns_secs 60\n"));
        scratch.write(
            "unbound.conf",
            UNBOUND.replace("127.0.0.2", "127.0.0.2\n    interface: fe80::53%lo\n    access-control: fe80::/10 allow"),
        );
        let zone = format!(
            "{{'ptr': [[b'mail', b'example']], 'hosts': {{'mail.example': ['192.0.2.7']}}, 'link-local': 'fe80::53', \
             'resolv.conf': 'nameserver {server}\\n', 'forwarder': ['{}', '-d', '-c', 'unbound.conf']}}",
            debian::program("unbound", "unbound").display()
        );
        let mut session = session(&scratch, &zone, IPV4);
        session.expect("220 mx.example ");
        let name = if is_found { "mail.example" } else { "unknown" };
        session.exchange("HELO client.example", &format!("250 mx.example Hello {name} [192.0.2.7]"));
        session.quit();
        let why = "the host name look-up failed: there is no network interface `nowhere0` for the name server fe80::53 in /etc/resolv.conf";
        let found = scratch.log().iter().any(|line| line.ends_with(why));
        assert_eq!(found, !is_found, "{server}: {:?}", scratch.log());
    }
}

/// Asks the test's own name server for everything.
const UNBOUND: &str = r#"
server:
    interface: 127.0.0.2
    do-not-query-localhost: no
    local-zone: "2.0.192.in-addr.arpa." nodefault
    module-config: "iterator"
    username: ""
    chroot: ""
    directory: "."
    pidfile: ""
    use-syslog: no
forward-zone:
    name: "."
    forward-addr: 127.0.0.1
remote-control:
    control-enable: no
"#;

/// A link-local address is told without its link, which nothing that reads the log would understand.
#[test]
fn a_link_local_peer_has_no_scope() {
    if !can_have_names() {
        return;
    }
    let zone = "{'ptr': [[b'mail', b'example']], 'hosts': {'mail.example': ['fe80::7']}}";
    let scratch = Scratch::with_config(CONFIG_TEXT);
    let mut session = session(&scratch, zone, "fe80::7");
    session.expect("220 mx.example ");
    let reply = session.deliver(&["named@mx.example"]);
    assert!(reply.starts_with("250 2.0.0 "), "{reply}");
    session.quit();
    assert!(scratch.read("inbox").contains("(mail.example [IPv6:fe80::7])\n"), "{}", scratch.read("inbox"));
    assert_eq!(scratch.log(), ["[fe80::7] DEBUG: host name 'mail.example' is confirmed"]);
}

/// hosts(5) is the administrator's word, and comes first.
#[test]
fn the_hosts_file_comes_first() {
    if !can_have_names() {
        return;
    }
    let (name, scratch) =
        name_in("{'mode': 'silent', '/etc/hosts': '192.0.2.8 other\\n192.0.2.7 mail.example alias\\n'}", IPV4);
    assert_eq!(name, "mail.example [192.0.2.7]");
    assert_eq!(scratch.read("queries"), "");
    // A comment from before UTF-8.
    let (name, _) = name_in(r"{'mode': 'silent', '/etc/hosts': '192.0.2.7 mail.example # B\xfcro\n'}", IPV4);
    assert_eq!(name, "mail.example [192.0.2.7]");
}

/// Each is asked twice, and waited for five seconds each time: half a minute in all.
const SLOW_SERVERS: &str = "'resolv.conf': 'nameserver 127.0.0.1\\nnameserver 127.0.0.1\\nnameserver 127.0.0.1\\n'";

/// The name server has no answer until the peer has the greeting.
#[test]
fn the_greeting_does_not_wait_for_the_look_up() {
    if !can_have_names() {
        return;
    }
    let scratch = Scratch::with_config(&format!("{CONFIG_TEXT}limit.dns_secs 60\n"));
    let confirmed = "'ptr': [[b'mail', b'example']], 'hosts': {'mail.example': ['192.0.2.7']}";
    let zone = format!("{{{confirmed}, {SLOW_SERVERS}, 'mode': 'when told'}}");
    let mut session = session(&scratch, &zone, IPV4);
    session.expect("220 mx.example ");
    scratch.write("answer", "");
    session.exchange("HELO client.example", "250 mx.example Hello mail.example ");
    session.quit();
}

/// `limit.dns_secs` bounds all look-ups together, whatever the server does.
#[test]
fn look_ups_are_bounded() {
    if !can_have_names() {
        return;
    }
    let confirmed = "'ptr': [[b'mail', b'example']], 'hosts': {'*': ['192.0.2.7']}";
    for mode in ["silent", "PTR only", "slow TCP"] {
        let scratch = Scratch::with_config(&format!("{CONFIG_TEXT}limit.dns_secs 1\n"));
        let zone = format!("{{{confirmed}, {SLOW_SERVERS}, 'mode': '{mode}'}}");
        let mut session = session(&scratch, &zone, IPV4);
        session.expect("220 mx.example ");
        let greeted = Instant::now();
        let reply = session.ask("EHLO client.example");
        let time = greeted.elapsed();
        assert_eq!(reply, "450 Failed FcrDNS, try again later", "{mode}");
        assert!(time < Duration::from_secs(20), "{mode}: took {time:?}");
        assert_eq!(session.end(), (Vec::new(), 0));
        let log = scratch.log();
        assert!(log.last().unwrap().contains("(the host name look-up failed: "), "{mode}: {log:?}");
    }
}

/// A peer that has said something has not been silent, however long we took to look at it.
#[test]
fn the_time_of_a_look_up_is_not_the_silence_of_the_peer() {
    if !can_have_names() {
        return;
    }
    let limits = "limit.fcrdns_check off\nlimit.dns_secs 4\nlimit.greet_secs 3\n";
    let scratch = Scratch::with_config(&format!("{CONFIG_TEXT}{limits}"));
    let mut session = session(&scratch, "{'mode': 'silent'}", IPV4);
    session.send("HELO client.example\r\nQUIT\r\n");
    session.expect("220 mx.example ");
    session.expect("250 mx.example Hello unknown [192.0.2.7]");
    session.expect("221 ");
    assert_eq!(session.end(), (Vec::new(), 0));
}

/// A peer that is not wanted by name or address is told so, with the name only if it is confirmed.
#[test]
fn rules_about_peers_see_confirmed_names_only() {
    if !can_have_names() {
        return;
    }
    let config = format!("{CONFIG_TEXT}limit.fcrdns_check off\nallow remotehost ^mail\\.example$\n");
    for (forward, reply) in [
        ("192.0.2.7", "250 mx.example Hello mail.example [192.0.2.7]"),
        ("192.0.2.8", "550 Cannot receive messages from unknown [192.0.2.7] at this time."),
    ] {
        let scratch = Scratch::with_config(&config);
        let zone = format!("{{'ptr': [[b'mail', b'example']], 'hosts': {{'mail.example': ['{forward}']}}}}");
        let mut session = session(&scratch, &zone, IPV4);
        session.expect("220 ");
        assert_eq!(session.ask("HELO client.example"), reply);
    }
}

/// At a terminal the local user talks to us, LF behind each line, and no name is looked up.
#[test]
fn a_person_at_a_terminal_is_local() {
    const TYPIST: &str = r#"
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
said = b''
def wait_for(text):
    global said
    while text not in said:
        said += os.read(terminal, 4096)
    print(said.decode(), end='')
    said = b''
wait_for(b'220 ')
for line, reply in [(b'HELP', b'214 '), (b'helo me', b'250 '), (b'mail from: me', b'250 '), (b'rcpt to: fred', b'250 '),
                    (b'data', b'354 '), (b'Subject: typed\n\nby hand\n.', b'id='), (b'QUIT', b'221 ')]:
    os.write(terminal, line + b'\n')
    wait_for(reply)
print()
print('status', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let scratch = Scratch::with_config(
        "domain mx.example\nallow remotehost ^\\(local-tty\\)$\ndeliver rcpt_to fred@mx.example append inbox\n",
    );
    let said = scratch.python(TYPIST, &[MAILRECV, "-c", CONFIG, "-l", LOG]);
    for expected in
        ["214-Commands:", "250 mx.example Hello (local-tty) [127.0.0.1]", "250 Message accepted", "status 0"]
    {
        assert!(said.contains(expected), "{expected:?} is missing:\n{said}");
    }
    let inbox = scratch.read("inbox");
    assert!(inbox.starts_with("From me@mx.example "), "{inbox}");
    assert!(inbox.contains("\nReceived: from me ((local-tty) [127.0.0.1])\n"), "{inbox}");
    assert!(inbox.ends_with("\nSubject: typed\n\nby hand\n\n"), "{inbox}");
}

/// Standard input that is no connection is refused in words, unless --peer says who it is.
#[test]
fn what_is_no_connection_needs_a_peer() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * append inbox\n");
    let dialogue = "HELO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<fred>\r\nDATA\r\nSubject: x\r\n.\r\nQUIT\r\n";
    scratch.write("dialogue", dialogue);
    let file = || Stdio::from(std::fs::File::open(scratch.path("dialogue")).unwrap());
    let pipe = || {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(dialogue.as_bytes()).unwrap();
        Stdio::from(reader)
    };
    let unix = || {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(dialogue.as_bytes()).unwrap();
        Stdio::from(OwnedFd::from(ours))
    };
    let inputs: [(&str, &dyn Fn() -> Stdio); 4] =
        [("file", &file), ("pipe", &pipe), ("UNIX socket", &unix), ("/dev/null", &Stdio::null)];
    for (what, input) in inputs {
        let mut command = scratch.mailrecv(&[]);
        command.stdin(input());
        let refused = output(command);
        assert_eq!(refused.status.code(), Some(64), "{what}");
        assert!(refused.stdout.is_empty(), "{what}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            said.starts_with("mailrecv: standard input is no ") && said.contains("--peer ADDRESS"),
            "{what}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{what}: {said}");
        // Once also where the log is on standard error.
        let mut command = scratch.command(MAILRECV, &["-c", CONFIG, "-l", "stderr"]);
        command.stdin(input());
        let said = String::from_utf8(output(command).stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{what}: {said}");
        assert!(!scratch.path("inbox").exists(), "{what}");

        let mut command = scratch.mailrecv(&["--peer", "192.0.2.7"]);
        command.stdin(input());
        let served = output(command);
        assert_eq!(served.status.code(), Some(0), "{what}");
        assert!(served.stderr.is_empty(), "{what}");
        let said = String::from_utf8_lossy(&served.stdout).into_owned();
        assert!(said.starts_with("220 mx.example "), "{what}: {said}");
        if what != "/dev/null" {
            assert!(said.ends_with("\r\n221 mx.example closing connection\r\n"), "{what}: {said}");
            assert!(scratch.read("inbox").contains("(unknown [192.0.2.7])"), "{what}");
            std::fs::remove_file(scratch.path("inbox")).unwrap();
        }
    }
}

/// A peer that has gone before we could ask who it is is no fault of ours.
#[test]
fn a_peer_that_is_gone_already_is_no_fault() {
    let scratch = Scratch::with_config("domain mx.example\ndebug w\n");
    let (peer, accepted) = connection(SocketAddr::new(LOOPBACK[0], 0));
    peer.reset();
    let mut command = scratch.mailrecv(&[]);
    attach(&mut command, &accepted);
    assert_eq!(Process::start(command).exit_code(), 0);
    assert_eq!(scratch.log(), ["[unknown] WARNING: the peer had gone before it could be greeted"]);
}

/// Under xinetd standard error is the connection as well: a mistake in the super-server's entry is no
/// business of the peer, and nothing but SMTP goes there.
#[test]
fn a_bad_command_line_is_not_shown_to_the_peer() {
    let scratch = Scratch::with_config("domain mx.example\n");
    for arguments in [&["--frobnicate"][..], &["-d", "xyz"], &["--peer", "nonsense"], &["stray"]] {
        let mut session = scratch.session(arguments);
        if let Some(line) = session.line() {
            assert!(line.starts_with("421 "), "{arguments:?}: {line}");
            assert_eq!(session.line(), None, "{arguments:?}");
        }
        assert_eq!(session.end(), (Vec::new(), 64), "{arguments:?}");
    }
}

/// What --peer may name.
#[test]
fn the_peer_on_the_command_line_is_read_strictly() {
    let scratch = Scratch::with_config("domain mx.example\n");
    for bad in [
        "",
        "localhost",
        "192.0.2.256",
        "192.0.2",
        "fe80::1%eth0",
        "192.0.2.1=",
        "192.0.2.1=a b",
        "192.0.2.1=unknown",
        "192.0.2.1=192.0.2.1",
        "192.0.2.1=a!b",
        "[::1]",
        "192.0.2.1:25",
    ] {
        let output = output(scratch.mailrecv(&["--peer", bad]));
        assert_eq!(output.status.code(), Some(64), "{bad}");
        assert!(output.stdout.is_empty(), "{bad}");
    }
    for (good, shown) in [
        ("::ffff:192.0.2.7=mail.example", "mail.example [192.0.2.7]"),
        ("192.0.2.7=web_1.example", "web_1.example [192.0.2.7]"),
        ("2001:DB8:0:0:0:0:0:7", "unknown [2001:db8::7]"),
        ("0:0:0:0:0:0:0:1=a", "a [::1]"),
    ] {
        let mut session = scratch.session(&["--peer", good]);
        session.expect("220 ");
        assert_eq!(session.ask("HELO x"), format!("250 mx.example Hello {shown}"));
        session.quit();
    }
}
