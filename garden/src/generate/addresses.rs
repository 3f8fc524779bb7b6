//! Forms of addresses in MAIL and RCPT, and parameters behind them.

use super::draft::Draft;
use crate::case::Case;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, argument) in MAIL {
        let line = [b"MAIL FROM:", *argument, b"\r\n"].concat();
        cases.push(Draft::new().mail(&line).case(format!("addresses/mail/{name}")));
    }
    for (name, argument) in RCPT {
        let line = [b"RCPT TO:", *argument, b"\r\n"].concat();
        cases.push(Draft::new().recipients(&[&line]).case(format!("addresses/rcpt/{name}")));
    }
    for (name, local, domain) in lengths() {
        let mail = format!("MAIL FROM:<{local}@{domain}>\r\n");
        let rcpt = format!("RCPT TO:<{local}@{domain}>\r\n");
        cases.push(Draft::new().mail(mail.as_bytes()).case(format!("addresses/mail/length-{name}")));
        cases.push(Draft::new().recipients(&[rcpt.as_bytes()]).case(format!("addresses/rcpt/length-{name}")));
    }
    for (name, line) in VERBS {
        cases.push(Draft::new().mail(line).case(format!("addresses/verb/{name}")));
    }
    for (name, line) in HELLOS {
        cases.push(Draft::new().hello(&[*line, b"\r\n"].concat()).case(format!("addresses/hello/{name}")));
    }
    for (name, recipients) in RECIPIENTS {
        cases.push(Draft::new().recipients(recipients).case(format!("addresses/recipients/{name}")));
    }
    cases
}

/// Senders: the text behind `MAIL FROM:`.
const MAIL: &[(&str, &[u8])] = &[
    ("null", b"<>"),
    ("blank-null", b"< >"),
    ("space", b" <__SOURCE__>"),
    ("no-brackets", b"__SOURCE__"),
    ("no-end", b"<__SOURCE__"),
    ("no-begin", b"__SOURCE__>"),
    ("two-brackets", b"<<__SOURCE__>>"),
    ("trailing-bracket", b"<__SOURCE__>>"),
    ("trailing-blank", b"<__SOURCE__> "),
    ("name-in-front", b"Sender <__SOURCE__>"),
    ("inner-blanks", b"< __SOURCE__ >"),
    ("comment", b"<sender(comment)@client.example>"),
    ("comment-behind", b"<sender@client.example> (comment)"),
    ("two-addresses", b"<a@client.example> <b@client.example>"),
    ("list", b"<a@client.example,b@client.example>"),
    ("bare-local", b"<sender>"),
    ("no-local", b"<@client.example>"),
    ("no-domain", b"<sender@>"),
    ("only-at", b"<@>"),
    ("two-ats", b"<sender@other.example@client.example>"),
    ("leading-dot", b"<.sender@client.example>"),
    ("trailing-dot", b"<sender.@client.example>"),
    ("two-dots", b"<sen..der@client.example>"),
    ("domain-leading-dot", b"<sender@.client.example>"),
    ("domain-trailing-dot", b"<sender@client.example.>"),
    ("domain-two-dots", b"<sender@client..example>"),
    ("domain-hyphen", b"<sender@-client.example>"),
    ("domain-underscore", b"<sender@client_1.example>"),
    ("domain-number", b"<sender@127.0.0.1>"),
    ("domain-short", b"<sender@example>"),
    ("domain-upper-case", b"<sender@CLIENT.EXAMPLE>"),
    ("quoted", b"<\"sender\"@client.example>"),
    ("quoted-blank", b"<\"sen der\"@client.example>"),
    ("quoted-at", b"<\"sen@der\"@client.example>"),
    ("quoted-bracket", b"<\"sen>der\"@client.example>"),
    ("quoted-pair", b"<\"sen\\\"der\"@client.example>"),
    ("quoted-empty", b"<\"\"@client.example>"),
    ("quoted-open", b"<\"sender@client.example>"),
    ("quoted-half", b"<\"sen\"der@client.example>"),
    ("literal", b"<sender@[192.0.2.1]>"),
    ("literal-ipv6", b"<sender@[IPv6:2001:db8::1]>"),
    ("literal-bare-ipv6", b"<sender@[2001:db8::1]>"),
    ("literal-wrong", b"<sender@[192.0.2.256]>"),
    ("literal-empty", b"<sender@[]>"),
    ("literal-behind", b"<sender@[192.0.2.1].example>"),
    ("route", b"<@a.example,@b.example:sender@client.example>"),
    ("percent", b"<sender%other.example@client.example>"),
    ("bang", b"<other.example!sender@client.example>"),
    ("plus", b"<sender+more@client.example>"),
    ("shell", b"<$(id)@client.example>"),
    ("backticks", b"<`id`@client.example>"),
    ("expansion", b"<${run{id}}@client.example>"),
    ("option", b"<-oQx@client.example>"),
    ("path", b"<../../x@client.example>"),
    ("pipe", b"<|id@client.example>"),
    ("semicolon", b"<;id;>"),
    ("tab", b"<sen\tder@client.example>"),
    ("backslash", b"<sen\\der@client.example>"),
    ("latin1", b"<s\xe9nder@client.example>"),
    ("utf8", b"<s\xc3\xa9nder@client.example>"),
    ("utf8-announced", b"<s\xc3\xa9nder@client.example> SMTPUTF8"),
    ("utf8-domain", b"<sender@cli\xc3\xa9nt.example>"),
];

/// Recipients: the text behind `RCPT TO:`.
const RCPT: &[(&str, &[u8])] = &[
    ("null", b"<>"),
    ("space", b" <__DEST__>"),
    ("no-brackets", b"__DEST__"),
    ("no-end", b"<__DEST__"),
    ("two-brackets", b"<<__DEST__>>"),
    ("trailing-bracket", b"<__DEST__>>"),
    ("trailing-blank", b"<__DEST__> "),
    ("name-in-front", b"Recipient <__DEST__>"),
    ("inner-blanks", b"< __DEST__ >"),
    ("comment", b"<__USER__(comment)@__HOST__>"),
    ("comment-behind", b"<__DEST__> (comment)"),
    ("bare-local", b"<__USER__>"),
    ("no-domain", b"<__USER__@>"),
    ("no-local", b"<@__HOST__>"),
    ("unknown", b"<nobody-of-this-name@__HOST__>"),
    ("elsewhere", b"<__USER__@elsewhere.example>"),
    ("domain-trailing-dot", b"<__USER__@__HOST__.>"),
    ("domain-leading-dot", b"<__USER__@.__HOST__>"),
    ("leading-dot", b"<.__USER__@__HOST__>"),
    ("trailing-dot", b"<__USER__.@__HOST__>"),
    ("quoted", b"<\"__USER__\"@__HOST__>"),
    ("quoted-pairs", b"<\"\\__USER__\"@__HOST__>"),
    ("quoted-address", b"<\"__DEST__\">"),
    ("quoted-address-here", b"<\"__USER__@elsewhere.example\"@__HOST__>"),
    ("quoted-half", b"<\"\"__USER__@__HOST__>"),
    ("two-ats", b"<__USER__@elsewhere.example@__HOST__>"),
    ("two-ats-elsewhere", b"<__DEST__@elsewhere.example>"),
    ("route", b"<@a.example,@b.example:__DEST__>"),
    ("route-here", b"<@__DOMAIN__:__USER__@elsewhere.example>"),
    ("percent", b"<__USER__%elsewhere.example@__HOST__>"),
    ("percent-alone", b"<__USER__%elsewhere.example>"),
    ("bang", b"<elsewhere.example!__USER__@__HOST__>"),
    ("bang-alone", b"<elsewhere.example!__USER__>"),
    ("plus", b"<__USER__+more@__HOST__>"),
    ("minus", b"<__USER__-more@__HOST__>"),
    ("literal", b"<__USER__@[127.0.0.1]>"),
    ("literal-ipv6", b"<__USER__@[IPv6:::1]>"),
    ("postmaster", b"<postmaster>"),
    ("postmaster-other-case", b"<PostMaster>"),
    ("postmaster-domain", b"<postmaster@__DOMAIN__>"),
    ("path", b"<../__USER__@__HOST__>"),
    ("slash", b"<x/__USER__@__HOST__>"),
    ("pipe", b"<|id@__HOST__>"),
    ("shell", b"<$(id)@__HOST__>"),
    ("option", b"<-f@__HOST__>"),
    ("tab", b"<__USER__\t@__HOST__>"),
    ("latin1", b"<__USER__\xe9@__HOST__>"),
    ("utf8", b"<__USER__\xc3\xa9@__HOST__>"),
    ("parameter", b"<__DEST__> FOO=BAR"),
];

/// Whole lines of MAIL: verbs, and parameters.
const VERBS: &[(&str, &[u8])] = &[
    ("lower-case", b"mail from:<__SOURCE__>\r\n"),
    ("mixed-case", b"MaIl FrOm:<__SOURCE__>\r\n"),
    ("two-blanks", b"MAIL  FROM:<__SOURCE__>\r\n"),
    ("tab", b"MAIL\tFROM:<__SOURCE__>\r\n"),
    ("leading-blank", b" MAIL FROM:<__SOURCE__>\r\n"),
    ("blank-before-colon", b"MAIL FROM :<__SOURCE__>\r\n"),
    ("no-colon", b"MAIL FROM<__SOURCE__>\r\n"),
    ("no-from", b"MAIL <__SOURCE__>\r\n"),
    ("no-argument", b"MAIL\r\n"),
    ("send", b"SEND FROM:<__SOURCE__>\r\n"),
    ("saml", b"SAML FROM:<__SOURCE__>\r\n"),
    ("size", b"MAIL FROM:<__SOURCE__> SIZE=1000\r\n"),
    ("size-small", b"MAIL FROM:<__SOURCE__> SIZE=1\r\n"),
    ("size-zero", b"MAIL FROM:<__SOURCE__> SIZE=0\r\n"),
    ("size-none", b"MAIL FROM:<__SOURCE__> SIZE=\r\n"),
    ("size-negative", b"MAIL FROM:<__SOURCE__> SIZE=-1\r\n"),
    ("size-hexadecimal", b"MAIL FROM:<__SOURCE__> SIZE=0x10\r\n"),
    ("size-huge", b"MAIL FROM:<__SOURCE__> SIZE=99999999999999999999\r\n"),
    ("size-twice", b"MAIL FROM:<__SOURCE__> SIZE=1 SIZE=2\r\n"),
    ("size-no-blank", b"MAIL FROM:<__SOURCE__>SIZE=1000\r\n"),
    ("body-unknown", b"MAIL FROM:<__SOURCE__> BODY=9BIT\r\n"),
    ("body-lower-case", b"MAIL FROM:<__SOURCE__> body=8bitmime\r\n"),
    ("unknown", b"MAIL FROM:<__SOURCE__> FOO=BAR\r\n"),
    ("unknown-word", b"MAIL FROM:<__SOURCE__> FOO\r\n"),
    ("no-keyword", b"MAIL FROM:<__SOURCE__> =BAR\r\n"),
    ("auth", b"MAIL FROM:<__SOURCE__> AUTH=<>\r\n"),
    ("dsn", b"MAIL FROM:<__SOURCE__> RET=HDRS ENVID=__TOKEN__\r\n"),
    ("two-parameters", b"MAIL FROM:<__SOURCE__> BODY=7BIT SIZE=1000\r\n"),
    ("two-blanks-parameter", b"MAIL FROM:<__SOURCE__>  SIZE=1000\r\n"),
    ("tab-parameter", b"MAIL FROM:<__SOURCE__>\tSIZE=1000\r\n"),
];

/// Names by which a client introduces itself.
const HELLOS: &[(&str, &[u8])] = &[
    ("lower-case", b"ehlo client.example"),
    ("no-name", b"EHLO"),
    ("no-name-blank", b"EHLO "),
    ("helo-no-name", b"HELO"),
    ("literal", b"EHLO [127.0.0.1]"),
    ("literal-ipv6", b"EHLO [IPv6:::1]"),
    ("number", b"EHLO 127.0.0.1"),
    ("underscore", b"EHLO client_1.example"),
    ("trailing-dot", b"EHLO client.example."),
    ("own-name", b"EHLO __DOMAIN__"),
    ("localhost", b"EHLO localhost"),
    ("brackets", b"EHLO <client.example>"),
    ("two-words", b"EHLO client.example other.example"),
    ("utf8", b"EHLO cli\xc3\xa9nt.example"),
    ("format", b"EHLO %s%n"),
    ("escape", b"EHLO a\x1b[2Jb"),
    ("comment", b"EHLO client.example) by forged.example (x"),
];

/// Several recipients.
const RECIPIENTS: &[(&str, &[&[u8]])] = &[
    ("two", &[b"RCPT TO:<__DEST__>\r\n", b"RCPT TO:<__DEST2__>\r\n"]),
    ("same-twice", &[b"RCPT TO:<__DEST__>\r\n", b"RCPT TO:<__DEST__>\r\n"]),
    ("same-quoted", &[b"RCPT TO:<__DEST__>\r\n", b"RCPT TO:<\"__USER__\"@__HOST__>\r\n"]),
    ("list", &[b"RCPT TO:<__DEST__>,<__DEST2__>\r\n"]),
    ("list-in-brackets", &[b"RCPT TO:<__DEST__,__DEST2__>\r\n"]),
];

/// Local parts and domains at the limits of their lengths (RFC 5321, 4.5.3.1).
fn lengths() -> Vec<(&'static str, String, String)> {
    let domain = |length: usize| {
        let labels: String = (1..=length).map(|at| if at % 60 == 0 && at < length { '.' } else { 'd' }).collect();
        labels
    };
    let short = "client.example".to_owned();
    vec![
        ("local-64", "x".repeat(64), short.clone()),
        ("local-65", "x".repeat(65), short.clone()),
        ("local-300", "x".repeat(300), short),
        ("label-63", "x".to_owned(), format!("{}.example", "d".repeat(63))),
        ("label-64", "x".to_owned(), format!("{}.example", "d".repeat(64))),
        ("domain-252", "x".to_owned(), domain(252)),
        ("domain-255", "x".to_owned(), domain(255)),
        ("domain-256", "x".to_owned(), domain(256)),
        ("path-1000", "x".repeat(500), domain(499)),
    ]
}
