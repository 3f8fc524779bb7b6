use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::case::{Part, Unit};

fn send(part: Part, octets: &[u8]) -> Unit {
    Unit::Send { part, octets: octets.to_vec() }
}

fn expect(code: &str) -> Unit {
    Unit::Expect { code: code.to_owned() }
}

fn read_text(text: &str) -> Result<Vec<Case>, Vec<Problem>> {
    read("folder/test.payload", format!("{HEADING}\n{text}").as_bytes(), &Assignments::new())
}

fn problems(text: &str) -> Vec<String> {
    read_text(text).expect_err("it should be refused").iter().map(ToString::to_string).collect()
}

fn assignments(texts: &[&str]) -> Assignments {
    let mut assignments = Assignments::new();
    texts.iter().for_each(|text| assignments.assign(text).unwrap());
    assignments
}

#[test]
fn a_payload_is_a_line_for_each_unit() {
    let text = "# a comment\n\
        \n\
        helo EHLO client.example\\r\\n\n\
        expect 2\n\
        mail MAIL FROM:<__SOURCE__>\\r\\n\n\
        rcpt RCPT TO:<__DEST__>\\r\\n\n\
        expect 250\n\
        data DATA\\r\\n\n\
        expect\n\
        header Subject: é \\\\ # no comment\\r\\n\n\
        body  \\x00\\xFF\\x20\n\
        end\n\
        pause 250ms\n\
        tail x\n\
        quit QUIT\\r\\n\n";
    let case = &read_text(text).unwrap()[0];
    assert_eq!(case.name, "test");
    assert_eq!(
        case.units,
        [
            send(Part::Helo, b"EHLO client.example\r\n"),
            expect("2"),
            send(Part::Mail, b"MAIL FROM:<__SOURCE__>\r\n"),
            send(Part::Rcpt, b"RCPT TO:<__DEST__>\r\n"),
            expect("250"),
            send(Part::Data, b"DATA\r\n"),
            expect(""),
            send(Part::Header, b"Subject: \xc3\xa9 \\ # no comment\r\n"),
            send(Part::Body, b" \0\xff "),
            send(Part::End, b""),
            Unit::Pause(Duration::from_millis(250)),
            send(Part::Tail, b"x"),
            send(Part::Quit, b"QUIT\r\n"),
        ]
    );
}

#[test]
fn editors_on_windows_may_be_used() {
    let text = format!("\u{feff}{HEADING}\r\nname a\r\nhelo x\\r\\n\r\n");
    let cases = read("x", text.as_bytes(), &Assignments::new()).unwrap();
    assert_eq!(cases, [Case { name: "a".to_owned(), units: vec![send(Part::Helo, b"x\r\n")] }]);
}

#[test]
fn each_combination_of_values_is_a_case() {
    let text = "name n\n\
        __DEST__ = __WHO__@__PEER__.example\n\
        __WHO__ = user1\n\
        __WHO__ = nouser\n\
        __PEER__=a\n\
        __PEER__ = b\n\
        __END__ = \\r\\n.\\r\\n\n\
        __END__ = \\n.\\n\n\
        __UNUSED__ = x\n\
        __UNUSED__ = y\n\
        rcpt <__DEST__> by __WHO__\n\
        end __END__\n";
    let cases = read_text(text).unwrap();
    let names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names[..3], ["n/user1/a/1", "n/user1/a/2", "n/user1/b/1"]);
    assert_eq!(names.len(), 8);
    assert_eq!(cases[7].units, [send(Part::Rcpt, b"<nouser@b.example> by nouser"), send(Part::End, b"\n.\n")]);
}

#[test]
fn assignments_of_the_command_line_come_first() {
    let text = format!("{HEADING}\n__A__ = 1\n__A__ = 2\nbody __A____B__ __TOKEN__\n");
    let cases = read("x", text.as_bytes(), &assignments(&["__A__=\\x33", "__B__ = 4"])).unwrap();
    assert_eq!(cases, [Case { name: "x".to_owned(), units: vec![send(Part::Body, b"34 __TOKEN__")] }]);
    for wrong in ["A=1", "__a__=1", "__A__", "__A__=\\q", "=1", "__A__B=1"] {
        let said = Assignments::new().assign(wrong).expect_err(wrong);
        assert!(said.contains(wrong), "{said}");
    }
}

#[test]
fn a_variable_needs_a_value_that_is_not_itself() {
    assert_eq!(
        problems("body x __PEER__\n"),
        ["\
folder/test.payload:2:8: `__PEER__` has no value
    2 | body x __PEER__
      |        ^^^^^^^^
      = add a line `__PEER__ = VALUE`, or several, or say `--assign __PEER__=VALUE`; write \\x5f for the first _ if no \
      variable is meant"]
    );
    let said = problems("__A__ = x__B__\n__B__ = __A__\nbody __A__\n");
    assert!(
        said[0].contains("test.payload:4:6: `__A__` is a part of its own value: __A__ = __B__ = __A__"),
        "{}",
        said[0]
    );
    assert!(read_text("body __lower__ ____ __ A__ \\x5f_PEER__\n").is_ok(), "no variables");
}

#[test]
fn there_is_an_end_to_combinations() {
    let values: String = (0..6).flat_map(|name| (0..10).map(move |value| format!("__A{name}__ = {value}\n"))).collect();
    let said = problems(&format!("{values}body __A0____A1____A2____A3____A4____A5__\n"));
    assert!(said[0].contains("1000000 combinations"), "{said:?}");
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let text =
        "maul FROM:<é>\nmail a\\qb\nexpect 999\npause soon\nbody é\\x4\nname a b\n__A__ = \\\nbody x \nbody a\tb\n";
    let said = problems(text);
    let firsts: Vec<_> = said.iter().map(|said| said.lines().next().unwrap()).collect();
    assert_eq!(
        firsts,
        [
            "folder/test.payload:2:1: `maul` is no unit",
            "folder/test.payload:3:7: `\\q` stands for nothing",
            "folder/test.payload:4:8: not the beginning of a code",
            "folder/test.payload:5:7: not a time",
            "folder/test.payload:6:7: `\\x4` stands for nothing",
            "folder/test.payload:7:6: not a name",
            "folder/test.payload:8:9: `\\` stands for nothing",
            "folder/test.payload:9:7: a blank at the end, which cannot be seen",
            "folder/test.payload:10:7: a character that cannot be seen",
        ]
    );
    assert_eq!(said[4].lines().collect::<Vec<_>>()[1..3], ["    6 | body é\\x4", "      |       ^^^"]);
    assert!(
        said[1].ends_with(
            "= write \\\\ for a backslash, \\r, \\n, \\t, or \\xHH with two hexadecimal digits for any octet"
        )
    );
    assert!(said[8].ends_with("= write \\t"), "{}", said[8]);
    assert!(problems("# nothing\n")[0].contains(":1:1: no unit"));
    assert!(problems("name a\nname b\nbody\n")[0].contains(":3:1: a second name"));
    assert!(problems("body \\0\n")[0].ends_with("hexadecimal digits: \\x00"));
    let octets = [HEADING.as_bytes(), b"\nbody x\xffy\n"].concat();
    let said = read("x", &octets, &Assignments::new()).unwrap_err()[0].to_string();
    assert!(said.starts_with("x:2:7: an octet that is no text\n    2 | body x?y\n"), "{said}");
    assert!(said.ends_with("= write \\xff"), "{said}");
}

#[test]
fn of_a_long_line_the_place_is_shown() {
    let said = &problems(&format!("body {}\\q{}\n", "a".repeat(500), "b".repeat(500)))[0];
    let lines: Vec<_> = said.lines().collect();
    assert!(lines.iter().all(|line| line.len() < 120), "{said}");
    let caret = lines[2].find('^').unwrap();
    assert_eq!(&lines[1][caret..caret + 2], "\\q");
}

/// A typical template for `sendmsg.py`.
const TEMPLATE: &str = r#"HELO client.example\r\n
MAIL FROM:<__SOURCE__>\r\n
RCPT TO:<__DEST__>\r\n
DATA\r\n
Date: __DATE__\r\n
\r\n
Message to __DEST__ at __PRIMARY__.\r\n
\r\n.\r\n
QUIT\r\n
"#;

#[test]
fn a_file_of_sendmsg_is_read_as_it_is() {
    let cases = read("template.txt", TEMPLATE.as_bytes(), &assignments(&["__DATE__=today"])).unwrap();
    assert_eq!(cases.len(), 1);
    assert_eq!(cases[0].name, "template");
    let pause = || Unit::Pause(Duration::from_millis(50));
    assert_eq!(
        cases[0].units,
        [
            send(Part::Helo, b"HELO client.example\r\n"),
            expect(""),
            send(Part::Mail, b"MAIL FROM:<__SOURCE__>\r\n"),
            expect(""),
            send(Part::Rcpt, b"RCPT TO:<__DEST__>\r\n"),
            expect(""),
            send(Part::Data, b"DATA\r\n"),
            expect(""),
            send(Part::Header, b"Date: today\r\n"),
            pause(),
            send(Part::Body, b"\r\n"),
            pause(),
            send(Part::Body, b"Message to __DEST__ at __PRIMARY__.\r\n"),
            pause(),
            send(Part::End, b"\r\n.\r\n"),
            expect(""),
            send(Part::Quit, b"QUIT\r\n"),
            expect(""),
        ]
    );
    let given = assignments(&["__DEST__=__USER__@__HOST__", "__USER__=user1", "__USER__=user2", "__HOST__=x.example"]);
    let cases = read("t.txt", TEMPLATE.as_bytes(), &given).unwrap();
    assert_eq!(cases.iter().map(|case| case.name.as_str()).collect::<Vec<_>>(), ["t/user1", "t/user2"]);
    assert_eq!(cases[1].units[4], send(Part::Rcpt, b"RCPT TO:<user2@x.example>\r\n"));
}

#[test]
fn lines_of_sendmsg_are_cut_as_it_cuts_them() {
    let octets_of = |text: &str| {
        let cases = read("x", text.as_bytes(), &Assignments::new()).unwrap();
        let sent = cases[0].units.iter().filter_map(|unit| match unit {
            Unit::Send { octets, .. } => Some(String::from_utf8(octets.clone()).unwrap()),
            _ => None,
        });
        sent.collect::<Vec<_>>()
    };
    assert_eq!(octets_of("ab\ncd\n"), ["ab", "cd"]);
    assert_eq!(octets_of("ab\ncd"), ["ab", "c"], "the last character of a line without an end is lost");
    assert_eq!(octets_of("ab\ncé"), ["ab", "c"]);
    assert_eq!(octets_of("ab\r\ncd\ref\n"), ["ab", "cd", "ef"]);
    assert_eq!(octets_of("a\n\nb\n"), ["a", "b"]);
    assert_eq!(octets_of("x __FOO__ __TOKEN__ ___DEST__\n"), ["x __FOO__ __TOKEN__ ___DEST__"]);
}

/// The results of Python 3.11.
#[test]
fn escapes_of_sendmsg_are_those_of_python() {
    let table: &[(&str, &[u8])] = &[
        (r"\r\n\t\\", b"\r\n\t\\"),
        (r#"\'\"\a\b\f\v"#, b"'\"\x07\x08\x0c\x0b"),
        (r"\0\00\000\0000", b"\0\0\0\x000"),
        (r"\1018\18\377\400\777", b"A8\x018\xff\x00\xff"),
        (r"\x41\xfF", b"A\xff"),
        (r"\q\N\u1234\8", br"\q\N\u1234\8"),
        ("é", b"\xc3\xa9"),
        (r"\é", b"\\\xc3\xa9"),
    ];
    for (text, octets) in table {
        let cases = read("x", format!("{text}\n").as_bytes(), &Assignments::new()).unwrap();
        let Unit::Send { octets: read, .. } = &cases[0].units[0] else { panic!("{text}") };
        assert_eq!(read, octets, "{text}");
    }
    let said = |octets: &[u8]| read("x", octets, &Assignments::new()).unwrap_err()[0].to_string();
    assert!(
        said(b"good\nab\\x4\n")
            .starts_with("x:2:3: `\\x` without two hexadecimal digits\n    2 | ab\\x4\n      |   ^^")
    );
    assert!(said(b"ab\\\n").starts_with("x:1:3: a backslash with nothing behind it"));
    assert!(said(b"ab\nc\xffd\n").starts_with("x:2:2: an octet that is no text"));
}

/// The indented blocks of the manual that are payloads.
fn examples() -> Vec<String> {
    let manual = include_str!("../../docs/payloads.md");
    let is_code = |line: &&str| line.starts_with("    ") || line.is_empty();
    let mut examples = Vec::new();
    for (at, _) in manual.match_indices(&format!("    {HEADING}\n")) {
        let block: Vec<_> =
            manual[at..].lines().take_while(is_code).map(|line| line.get(4..).unwrap_or_default()).collect();
        examples.push(block.join("\n"));
    }
    examples
}

#[test]
fn the_examples_of_the_manual_are_payloads() {
    let read = |text: &String| read("example.payload", text.as_bytes(), &Assignments::new()).unwrap();
    let cases: Vec<_> = examples().iter().map(read).collect();
    assert_eq!(cases.len(), 2);
    assert_eq!(cases[0].len(), 1);
    let expected = crate::oracle::expected(&cases[0][0]);
    assert_eq!(expected.to_string(), "at most 1 message; open: bare-lf");
    let names: Vec<_> = cases[1].iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names, ["example/1/exim", "example/1/postfix", "example/2/exim", "example/2/postfix"]);
}

#[test]
fn the_mistake_of_the_manual_is_told_as_it_says() {
    let text = "\nname x\nmail MAIL FROM:<a@b.examp\\qle>\\r\\n\n";
    let problem =
        read("mine.payload", format!("{HEADING}\n{text}").as_bytes(), &Assignments::new()).unwrap_err().remove(0);
    let manual = include_str!("../../docs/payloads.md");
    let shown: String = problem.to_string().lines().map(|line| format!("    {line}\n")).collect();
    assert!(manual.contains(&shown), "{shown}");
}

proptest! {
    #[test]
    fn what_was_written_is_read_as_it_was(case in any_case()) {
        let text = write(&case);
        prop_assert!(text.bytes().all(|octet| matches!(octet, b' '..=b'~' | b'\n')), "{}", text);
        match read("other.payload", text.as_bytes(), &Assignments::new()) {
            Ok(cases) => prop_assert_eq!(cases, [case]),
            Err(problems) => prop_assert!(false, "{}\n{}", problems[0], text),
        }
    }

    #[test]
    fn no_file_is_too_odd(mut octets: Vec<u8>, has_heading: bool) {
        if has_heading {
            octets.splice(0..0, format!("{HEADING}\n").into_bytes());
        }
        if let Err(problems) = read("x", &octets, &Assignments::new()) {
            prop_assert!(!problems.is_empty());
            problems.iter().for_each(|problem| assert!(!problem.to_string().is_empty()));
        }
    }

    #[test]
    fn no_line_is_too_odd(lines in proptest::collection::vec(any_line(), 0..6)) {
        let _ = read_text(&lines.join("\n")).map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let octets = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..30),
        proptest::collection::vec(proptest::sample::select(b"__ABZ9 \\x5fr\n#=".to_vec()), 0..30),
        proptest::sample::select(vec![b"__FOO__ __DEST__".to_vec(), b"___TOKEN____A__B__ ".to_vec(), b" ".to_vec()]),
    ];
    let unit = prop_oneof![
        (proptest::sample::select(Part::ALL.to_vec()), octets).prop_map(|(part, octets)| Unit::Send { part, octets }),
        proptest::option::of("[2-5][0-9]{0,2}").prop_map(|code| Unit::Expect { code: code.unwrap_or_default() }),
        any::<Duration>().prop_map(Unit::Pause),
        Just(Unit::StartTls),
        (0_u64..10_000).prop_map(|milliseconds| Unit::Pause(Duration::from_millis(milliseconds))),
    ];
    ("[!-~]{1,20}", proptest::collection::vec(unit, 1..10)).prop_map(|(name, units)| Case { name, units })
}

fn any_line() -> impl Strategy<Value = String> {
    prop_oneof![
        "(body|expect|pause|name|quit|__A__ =|__B__ =|#) ?(__A__|__B__|\\\\x?|[0-9a-fms]|é| ){0,6}",
        "\\PC{0,20}",
    ]
}
