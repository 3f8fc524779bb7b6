//! `explain` beside what then happens.

use testkit::{repository, succeeds};

use crate::support::{MAILRECV, PEER, Scratch, path};

/// The README's questions, pasted.
#[test]
fn the_commands_of_the_readme_work() {
    let scratch = Scratch::with_config("domain example.com\ndeliver rcpt_to status@example.com append status\n");
    let blocks = repository::readme_commands("Check and explain");
    let [check, explain, explain_for_programs] = &blocks[..] else { panic!("{blocks:?}") };
    for (command, answer) in [
        (check, ""),
        (explain, "\n  reply: 250 2.1.5 Recipient ok\ndestination: append 'status' (line 2)\n"),
        (explain_for_programs, "250\n"),
    ] {
        let command = repository::replaced(command, &[("mailrecv ", "mailrecv -c mailrecv.conf ")]);
        let mut shell = scratch.command("/bin/sh", &["-c", &command]);
        shell.env("PATH", path());
        let said = succeeds(shell, "");
        assert!(said.contains(answer), "{command}{said}");
    }
}

/// `explain` shows the decision, the reply, the log line and the destination, and does nothing.
#[test]
fn explain_says_what_would_happen() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         allowgroup +lists ^lists\\.example\\.org$\n\
         allowgroup +lists net 2001:db8:25::/48\n\
         deliver allowgroup +lists rcpt_to archive@mx.example pipe touch was-run\n\
         error rcpt_to ^fred@ 550 Fred has left us\n\
         deliver rcpt_to *@mx.example append inbox\n\
         copy rcpt_to /^wilma/ append copies\n\
         error mail_from @spam\\.example$ 451 Not now\n\
         logfile log\nlimit.fcrdns_check off\n",
    );
    let explain = |arguments: &[&str]| {
        let output = scratch.run(MAILRECV, &[&["-c", "mailrecv.conf", "explain"], arguments].concat());
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };

    let (status, text) = explain(&["--peer", "192.0.2.7=mail.example.net", "--rcpt", "wilma@mx.example"]);
    assert_eq!(status, 0);
    for line in [
        "peer mail.example.net [192.0.2.7]",
        "  reply: 250 2.1.0 Sender ok",
        "  line 5: error rcpt_to: 'wilma@mx.example' does not match '^fred@'",
        "  line 6: deliver rcpt_to: 'wilma@mx.example' matches '*@mx.example'",
        "  reply: 250 2.1.5 Recipient ok",
        "destination: append 'inbox' (line 6)",
        "destination: append 'copies' (line 7)",
        "  log:   nothing, without debug flag +",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line:?} is missing:\n{text}");
    }

    // Refused: the line that the log would have is the one that the log does have.
    let arguments = ["--peer", PEER, "--from", "a@b.example", "--rcpt", "fred@mx.example"];
    let (status, text) = explain(&arguments);
    assert_eq!(status, 1);
    assert!(
        text.contains(
            "  line 5: error rcpt_to: 'fred@mx.example' matches '^fred@'\n  reply: 550 5.1.1 Fred has left us\n"
        ),
        "{text}"
    );
    let logged = text.lines().find_map(|line| line.strip_prefix("  log:   ")).expect("the log line");
    assert!(!scratch.path("log").exists(), "explain logs nothing");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<fred@mx.example>", "550 5.1.1 Fred has left us");
    session.quit();
    assert_eq!(logged.split_once("]: ").unwrap().1, scratch.log()[0]);

    // Accepted: the same, with the flag that logs deliveries, but for the name and the size of the message.
    scratch.write("mailrecv.conf", scratch.read("mailrecv.conf") + "debug +\n");
    let (_, text) = explain(&["--peer", PEER, "--from", "a@b.example", "--rcpt", "jim@mx.example"]);
    assert!(!scratch.path("inbox").exists(), "explain delivers nothing");
    let explained = text.lines().find_map(|line| line.strip_prefix("  log:   ")).expect("the log line");
    let mut session = scratch.greeted();
    session.exchange("EHLO client.example", "250-");
    session.exchange("MAIL FROM:<a@b.example>", "250 ");
    session.exchange("RCPT TO:<jim@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.exchange("Subject: x\r\n.", "250 ");
    session.quit();
    let logged = scratch.log().last().unwrap().clone();
    let known = |line: &str| {
        let line = line.split_once("Mail id=").unwrap().1;
        line.split(' ').filter(|word| !word.starts_with("size=")).skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(known(explained), known(&logged), "{explained}\n{logged}");

    // Groups, by name, by network, and neither.
    let archive = |peer: &str| explain(&["--peer", peer, "--rcpt", "archive@mx.example"]);
    let (status, text) = archive("203.0.113.1=lists.example.org");
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("\ndestination: pipe 'touch was-run' (line 4)\n"), "{text}");
    let (status, text) = archive("2001:db8:25::1");
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("net 2001:db8:25::/48: 2001:db8:25::1 is inside\n"), "{text}");
    let (status, text) = archive(PEER);
    assert_eq!(status, 1);
    assert!(text.contains("+lists: no member fits mail.example.net [192.0.2.7]\n"), "{text}");
    assert!(text.contains("  reply: 550 5.7.1 Remote not configured to deliver for this address\n"), "{text}");

    let (status, text) = explain(&["--peer", PEER, "--from", "a@spam.example", "--rcpt", "wilma@mx.example"]);
    assert_eq!(status, 1);
    assert!(text.contains("  reply: 451 4.7.1 Not now\n"), "{text}");
    let (status, text) = explain(&["--peer", PEER, "--rcpt", "no address"]);
    assert_eq!(status, 1);
    assert!(text.contains("  reply: 501 5.1.3 "), "{text}");
    assert!(!scratch.path("was-run").exists());
}

/// However a network is written, a name that looks like an address is none of its addresses.
#[test]
fn names_that_pose_as_addresses_fit_no_pattern_for_addresses() {
    let scratch = Scratch::new();
    let explain = |pattern: &str, peer: &str| {
        let config = format!(
            "domain mx.example\nallowgroup +lan {pattern}\nlimit.fcrdns_check off\ndeliver allowgroup +lan rcpt_to archive@mx.example discard\n"
        );
        scratch.write("mailrecv.conf", config);
        let arguments = ["-c", "mailrecv.conf", "explain", "--peer", peer, "--rcpt", "archive@mx.example"];
        let output = scratch.run(MAILRECV, &arguments);
        (output.status.code() == Some(0), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for (pattern, address, name) in [
        (r"^10\.", "10.1.2.3", "10.0.0.1.evil.example"),
        (r"^10\.", "10.1.2.3", "10.evil.example"),
        ("^10.", "10.1.2.3", "10.0.0.1.evil.example"),
        ("^1", "10.1.2.3", "1.evil.example"),
        (r"^10\..*", "10.1.2.3", "10.0.0.1.evil.example"),
        (r"^10[.].+", "10.1.2.3", "10.0.0.1.evil.example"),
        (r"^10\.[a-z0-9.-]+$", "10.1.2.3", "10.0.0.1.evil.example"),
        (r"^10\D", "10.1.2.3", "10.0.0.1.evil.example"),
        (r"10\.0\.0\.", "10.0.0.3", "x.10.0.0.evil.example"),
        (r".*10\.0\.0\.", "10.0.0.3", "x.10.0.0.evil.example"),
        (r"^(10|172)\.", "172.1.2.3", "172.evil.example"),
        (r"^(10|mail)\.", "10.1.2.3", "10.evil.example"),
        (r"^10\.|\.example\.com$", "10.1.2.3", "10.evil.example"),
        (r"^172\.(1[6-9]|2[0-9]|3[01])\.", "172.20.0.1", "172.20.evil.example"),
        (r"^1\.([0-9]+\.){2}", "1.2.3.4", "1.2.3.evil.example"),
        ("^1[0-9a-f:.]+$", "10.1.2.3", "10.dead.de"),
        ("^fe80[0-9a-f:.]*", "fe80::1", "fe80.de"),
    ] {
        let peer = format!("203.0.113.77={name}");
        let (is_admitted, text) = explain(pattern, &peer);
        assert!(!is_admitted, "{pattern}: {text}");
        let why = format!("line 2: +lan: '{name}' is a name, and '{pattern}' would match it as an address only\n");
        assert!(text.contains(&why), "{pattern}: {text}");
        let (is_admitted, text) = explain(pattern, address);
        assert!(is_admitted, "{pattern}: {text}");
    }
    // What means a name is still found in one, and what means anything in anything.
    for (pattern, name) in [
        (r"^192\.168\..*\.example$", "192.168.0.1.good.example"),
        (r"^(10|mail)\.", "mail.example.net"),
        (r"^10\.|\.example\.com$", "10.example.com"),
        (r"^[0-9]+[.-][0-9]+[.-]", "203-0-113-77.dsl.example"),
        ("^1and1\\.", "1and1.example"),
        (r"^abc\.de$", "abc.de"),
        (r"^mail\d+\.", "mail10.example"),
        (".*", "10.evil.example"),
        (r"^\S+$", "10.evil.example"),
    ] {
        let (is_admitted, text) = explain(pattern, &format!("203.0.113.77={name}"));
        assert!(is_admitted, "{pattern}: {text}");
    }
}

/// A network is one wherever peers are named, with `net` and without.
#[test]
fn networks_of_peers() {
    let scratch = Scratch::new();
    for (rules, peer, is_admitted, decision) in [
        (
            "allow remotehost net 10.0.0.0/8",
            "10.1.2.3",
            true,
            "line 1: allow remotehost: net 10.0.0.0/8: 10.1.2.3 is inside",
        ),
        (
            "allow remotehost 10.0.0.0/8",
            "11.1.2.3",
            false,
            "line 1: allow remotehost: net 10.0.0.0/8: 11.1.2.3 is outside",
        ),
        ("deny remotehost net 2001:db8::/32", "2001:db8::1", false, "net 2001:db8::/32: 2001:db8::1 is inside"),
        ("deny remotehost 2001:db8::/32", "2001:db9::1", true, "net 2001:db8::/32: 2001:db9::1 is outside"),
        (
            "allowgroup +a 10.0.0.0/8\nerror allowgroup +a rcpt_to . 550 No",
            "10.1.2.3",
            false,
            "line 1: +a: net 10.0.0.0/8: 10.1.2.3 is inside",
        ),
    ] {
        scratch.write("mailrecv.conf", format!("{rules}\nlimit.fcrdns_check off\ndeliver rcpt_to /x/ discard\n"));
        let arguments = ["-c", "mailrecv.conf", "explain", "--peer", peer, "--rcpt", "x@mx.example"];
        let output = scratch.run(MAILRECV, &arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code() == Some(0), is_admitted, "{rules}: {text}");
        assert!(text.contains(decision), "{rules}: {text}");
    }
}

/// What is typed in brackets is the address in them; what the note says of a nameless peer is what it gets.
/// What is asked about a proxy's own address is hardly what was meant.
#[test]
fn explain_knows_proxies() {
    let scratch = Scratch::with_config(
        "domain mx.example\nproxy_protocol from 192.0.2.10\ndeliver rcpt_to * discard\nlimit.fcrdns_check off\n",
    );
    for (peer, is_proxy) in [("192.0.2.10", true), ("192.0.2.101", false)] {
        let arguments = ["-c", "mailrecv.conf", "explain", "--peer", peer, "--rcpt", "fred@mx.example"];
        let text = String::from_utf8(scratch.run(MAILRECV, &arguments).stdout).unwrap();
        assert_eq!(text.contains("note: a proxy (proxy_protocol)"), is_proxy, "{text}");
    }
}

#[test]
fn explain_agrees_with_itself() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to *@mx.example discard\n");
    let explain = |config: &str, peer: &str, from: &str, rcpt: &str| {
        scratch.write("mailrecv.conf", format!("domain mx.example\n{config}deliver rcpt_to *@mx.example discard\n"));
        let arguments = ["-c", "mailrecv.conf", "explain", "--peer", peer, "--from", from, "--rcpt", rcpt];
        let output = scratch.run(MAILRECV, &arguments);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    for (from, rcpt) in [("<a@b.example>", "<fred@mx.example>"), ("<>", " <fred@mx.example> "), ("", "fred")] {
        let (status, text, _) = explain("", PEER, from, rcpt);
        assert_eq!(status, 0, "{from} {rcpt}: {text}");
        assert!(!text.contains("<<") && !text.contains("note:"), "{text}");
    }
    let (status, text, _) = explain("", "203.0.113.7", "", "fred");
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("note: a peer without a confirmed name is refused"), "{text}");
    assert!(text.contains("  reply: 450 Failed FcrDNS, try again later\n"), "{text}");
    let (status, text, _) = explain("limit.fcrdns_check off\n", "203.0.113.7", "", "fred");
    assert_eq!(status, 0, "{text}");

    // A pattern that does not compile is an error in the file, whether or not the answer depends on it.
    for config in ["deliver rcpt_to /(/ discard\n", "error rcpt_to ^x@(?!y) 550 No\n", "allow mail_from (\n"] {
        let (status, _, errors) = explain(config, PEER, "a@b.example", "fred");
        assert_eq!(status, 78, "{config}");
        assert!(errors.contains("mailrecv.conf:2:") && errors.contains(": error: "), "{config}: {errors}");
    }
}

/// Who has logged in reaches what nobody else does, and what is said of it, for people and for programs, is what a session
/// does.
#[test]
fn explain_knows_who_has_logged_in() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         auth_file accounts\n\
         auth_plaintext on\n\
         limit.fcrdns_check off\n\
         allowgroup +users auth ^fred$\n\
         deliver allowgroup +users rcpt_to far@mx.example discard\n\
         deliver rcpt_to postmaster discard\n",
    );
    scratch.write("accounts", "");
    let explain = |more: &[&str]| {
        let arguments = ["-c", "mailrecv.conf", "explain", "--peer", PEER, "--rcpt", "far@mx.example"];
        let output = scratch.run(MAILRECV, &[&arguments, more].concat());
        assert!(output.stderr.is_empty(), "{output:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    for (user, status, decision, reply) in [
        (Some("fred"), 0, "+users: auth: 'fred' matches '^fred$'", "250 2.1.5 Recipient ok"),
        (Some("alfred"), 1, "+users: auth: 'alfred' does not match '^fred$'", "550 5.7.1 Remote not configured"),
        (None, 1, "+users: auth: nobody has logged in", "550 5.7.1 Remote not configured"),
    ] {
        let options = user.map_or(Vec::new(), |user| vec!["--auth", user]);
        let (code, text) = explain(&options);
        assert_eq!(code, status, "{text}");
        assert!(text.contains(&format!("  line 5: {decision}\n")), "{decision}: {text}");
        assert!(text.contains(&format!("  reply: {reply}")), "{reply}: {text}");
        let (code, text) = explain(&[&options[..], &["--json"]].concat());
        assert_eq!(code, status, "{text}");
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["user"].as_str(), user, "{told}");
        assert_eq!(told["accepted"], status == 0, "{told}");
        let rules = told["recipients"][0]["rules"].as_array().unwrap();
        let rule = rules.iter().find(|rule| rule["rule"] == "+users" && rule["line"] == 5).unwrap();
        let verdict = if status == 0 { "matches" } else { "does_not_match" };
        assert_eq!(rule["verdict"], verdict, "{rule}");
    }
    // With the lines that are missing for it.
    for (config, note) in [
        ("auth_plaintext off\n", "note: nobody logs in without TLS (auth_plaintext): `--tls` asks about TLS"),
        ("auth off\n", "note: the configuration has no accounts, so no peer comes to this"),
    ] {
        let whole = scratch.read("mailrecv.conf");
        scratch.write("mailrecv.conf", format!("{whole}{config}"));
        let (_, text) = explain(&["--auth", "fred"]);
        assert!(text.contains(note), "{text}");
        scratch.write("mailrecv.conf", whole);
    }
    // Where everybody has to, nobody sends mail without.
    scratch.write("mailrecv.conf", format!("{}auth require\n", scratch.read("mailrecv.conf")));
    let (status, text) = explain(&[]);
    assert_eq!(status, 1);
    assert!(text.contains("  reply: 530 5.7.0 Authentication required\n"), "{text}");
    assert_eq!(explain(&["--auth", "fred"]).0, 0);
}

/// LMTP begins otherwise, and a peer at a Unix socket is asked about by its user.
#[test]
fn explain_knows_lmtp_and_users_of_this_host() {
    let scratch = Scratch::with_config(
        "domain mx.example\n\
         allow remotehost uid root\n\
         allow remotehost ^local$\n\
         allowgroup +mta uid root\n\
         deliver allowgroup +mta rcpt_to fred@mx.example discard\n\
         deliver rcpt_to postmaster discard\nlogfile log\ndebug +\n",
    );
    let explain = |options: &[&str], peer: &str, recipient: &str| {
        let arguments = [&["-c", "mailrecv.conf"], options, &["explain", "--peer", peer, "--rcpt", recipient]].concat();
        let output = scratch.run(MAILRECV, &arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, text) = explain(&["--lmtp"], "local=root", "fred@mx.example");
    assert_eq!(status, 0, "{text}");
    for line in [
        "peer local:0",
        "LHLO explain.invalid",
        "  line 2: allow remotehost: local:0 is local:0",
        "  line 4: +mta: local:0 is local:0",
        "destination: discard (line 5)",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line:?} is missing:\n{text}");
    }
    let (status, text) = explain(&[], "local=105", "fred@mx.example");
    assert_eq!(status, 1, "{text}");
    for line in [
        "EHLO explain.invalid",
        "  line 2: allow remotehost: local:105 is not local:0",
        "  line 3: allow remotehost: 'local' matches '^local$'",
        "  +mta: no member fits local:105",
        "  reply: 550 5.7.1 Remote not configured to deliver for this address",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line:?} is missing:\n{text}");
    }
    assert!(text.contains(" MAILRECV[") && text.contains("[local:105] ERROR: 550 "), "{text}");
    assert_eq!(explain(&[], "local", "postmaster").0, 0);
    // Nobody is called that, in the network.
    assert_eq!(explain(&[], "192.0.2.7=local", "postmaster").0, 64);
}
