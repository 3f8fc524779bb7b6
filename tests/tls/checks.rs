//! What `mailrecv check` finds in the files of certificates and keys.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use testkit::certificates::{Key, Request};
use testkit::{debian, succeeds};

use crate::support::{CONFIG, MAILRECV, Scratch};
use crate::{AUTHORITY, NAME, scratch, secured};

/// What `check` says, without the lines that are cited, and its exit status.
fn check(scratch: &Scratch) -> (Vec<String>, i32) {
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let others = ["postmaster", "this is below the folder in which"];
    let own = |line: &&str| line.starts_with(CONFIG) && !others.iter().any(|other| line.contains(other));
    (said.lines().filter(own).map(str::to_owned).collect(), output.status.code().unwrap())
}

/// That it says this one thing, as an error.
#[track_caller]
fn assert_says(scratch: &Scratch, place: &str, what: &str) {
    let config = scratch.read(CONFIG);
    for how in ["offer", "require", "implicit"] {
        scratch.write(CONFIG, format!("{config}tls {how}\n"));
        let (said, code) = check(scratch);
        assert!(said.len() == 1 && said[0].starts_with(&format!("{CONFIG}:{place}: error: ")), "{how}: {said:#?}");
        assert!(said[0].contains(what), "{how}: {said:#?}");
        assert_eq!(code, 78, "{how}");
    }
}

/// That it warns of this one thing, whatever depends on it.
#[track_caller]
fn assert_warns(scratch: &Scratch, place: &str, what: &str) {
    scratch.write(CONFIG, scratch.read(CONFIG) + "tls require\n");
    let (said, code) = check(scratch);
    assert!(said.len() == 1 && said[0].starts_with(&format!("{CONFIG}:{place}: warning: ")), "{said:#?}");
    assert!(said[0].contains(what), "{said:#?}");
    assert_eq!(code, 0);
}

/// A folder with a sound certificate, and this one done to its files.
fn spoiled(spoil: impl FnOnce(&Scratch)) -> Scratch {
    let scratch = scratch("");
    keep_secret(&scratch, "own.key");
    assert_eq!(check(&scratch), (vec![], 0));
    spoil(&scratch);
    scratch
}

fn keep_secret(scratch: &Scratch, name: &str) {
    fs::set_permissions(scratch.path(name), fs::Permissions::from_mode(0o600)).unwrap();
}

/// Has openssl write a file, which it may read.
fn openssl(scratch: &Scratch, arguments: &str, file: &str) {
    let arguments: Vec<&str> = arguments.split(' ').chain(["-out", "written"]).collect();
    succeeds(scratch.command(debian::program("openssl", "openssl"), &arguments), "");
    fs::write(scratch.path(file), scratch.read("written")).unwrap();
}

const CERTIFICATE: &str = "4:17";
const KEY: &str = "5:9";

#[test]
fn files_that_cannot_be_used() {
    let gone = spoiled(|scratch| fs::remove_file(scratch.path("own.pem")).unwrap());
    assert_says(&gone, CERTIFICATE, "own.pem cannot be opened: No such file");
    let gone = spoiled(|scratch| fs::remove_file(scratch.path("own.key")).unwrap());
    assert_says(&gone, KEY, "own.key cannot be opened: No such file");
    let folder = spoiled(|scratch| {
        fs::remove_file(scratch.path("own.key")).unwrap();
        fs::create_dir(scratch.path("own.key")).unwrap();
        fs::set_permissions(scratch.path("own.key"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    assert_says(&folder, KEY, "own.key cannot be read: Is a directory");
    let der = spoiled(|scratch| openssl(scratch, "x509 -in own.pem -outform DER", "own.pem"));
    assert_says(&der, CERTIFICATE, "has no certificate in PEM form");
    let swapped = spoiled(|scratch| {
        fs::rename(scratch.path("own.pem"), scratch.path("x")).unwrap();
        fs::copy(scratch.path("own.key"), scratch.path("own.pem")).unwrap();
    });
    assert_says(&swapped, CERTIFICATE, "own.pem has a private key and no certificate: name it behind `tls_key`");
    let swapped = spoiled(|scratch| {
        fs::write(scratch.path("own.key"), scratch.read("own.pem")).unwrap();
    });
    assert_says(&swapped, KEY, "own.key has a certificate and no private key: name it behind `tls_certificate`");
    let torn = spoiled(|scratch| {
        let text = scratch.read("own.pem");
        scratch.write("own.pem", &text[..text.len() / 3]);
    });
    assert_says(&torn, CERTIFICATE, "has a certificate that is not PEM");
    // Told once, and in words about ours.
    let empty = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let junk = spoiled(|scratch| fs::write(scratch.path("own.pem"), empty).unwrap());
    assert_says(&junk, CERTIFICATE, "own.pem has a certificate, number 1, that cannot be read: BadEncoding");
    let junk = spoiled(|scratch| {
        scratch.write("own.pem", scratch.read("own.pem") + empty);
    });
    assert_says(&junk, CERTIFICATE, "own.pem has a certificate, number 3, that cannot be read: BadEncoding");
    let first = spoiled(|scratch| {
        openssl(scratch, "req -new -key own.key -subj /CN=mx.example", "request");
        openssl(scratch, "x509 -req -in request -signkey own.key", "own.pem");
    });
    assert_says(
        &first,
        CERTIFICATE,
        "own.pem has a certificate, number 1, that cannot be read: UnsupportedCertVersion",
    );
}

/// Below which folder a session is started is hardly known.
#[test]
fn files_below_an_unknown_folder() {
    let scratch = scratch("tls_ticket_key tickets\n");
    scratch.write("tickets", [7; 32]);
    let said = String::from_utf8(scratch.run(MAILRECV, &["-c", CONFIG, "check"]).stderr).unwrap();
    for (place, name) in [(CERTIFICATE, "own.pem"), (KEY, "own.key"), ("6:16", "tickets")] {
        let expected = format!("{CONFIG}:{place}: warning: this is below the folder in which mailrecv is started");
        assert!(said.contains(&expected) && said.contains(&format!("or `./{name}` if that is meant")), "{said}");
    }
}

/// What is wrong with files that included lines name is told with the places of these.
#[test]
fn files_named_in_included_files() {
    let scratch = scratch("");
    let lines = scratch.read(CONFIG);
    let (rules, lines) = lines.split_once("tls_certificate").unwrap();
    scratch.write(CONFIG, format!("{rules}include *.tls\n"));
    scratch.write("1.tls", format!("# ours\n\ntls_certificate{lines}"));
    scratch.write("2.tls", "\ttls_certificate  \"second.pem\"\ntls_key second.key # RSA\ntls require\n");
    AUTHORITY.issue(&scratch.path(""), "second", &Request { key: Key::Rsa, ..Request::of(&[NAME]) });
    fs::remove_file(scratch.path("own.key")).unwrap();
    scratch.write("second.key", "no key");
    let output = scratch.run(MAILRECV, &["-c", CONFIG, "check"]);
    let said = String::from_utf8(output.stderr).unwrap();
    for expected in [
        "1.tls:4:9: error: own.key cannot be opened: No such file or directory (os error 2)\n    4 | tls_key own.key\n      |         ^^^^^^^\n",
        "2.tls:2:9: error: second.key has no private key in PEM form, which begins with `-----BEGIN PRIVATE KEY-----`\n    2 | tls_key second.key # RSA\n      |         ^^^^^^^^^^\n",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(output.status.code(), Some(78));
    // One that has no key is told at its line, and is not asked for its name.
    fs::remove_file(scratch.path("2.tls")).unwrap();
    scratch.write("1.tls", "\ttls_certificate  \"own.pem\"\n");
    let said = String::from_utf8(scratch.run(MAILRECV, &["-c", CONFIG, "check"]).stderr).unwrap();
    let expected = "1.tls:1:19: error: this certificate has no key";
    assert!(said.contains(expected) && !said.contains("no certificate is for"), "{said}");
}

#[test]
fn keys_that_cannot_be_used() {
    let encrypted = spoiled(|scratch| openssl(scratch, "pkey -in own.key -aes128 -passout pass:secret", "own.key"));
    assert_says(&encrypted, KEY, "has an encrypted key, and nobody is there to type its password");
    let old = spoiled(|scratch| openssl(scratch, "ec -in own.key -aes128 -passout pass:secret", "own.key"));
    assert_says(&old, KEY, "has an encrypted key");
    let other =
        spoiled(|scratch| openssl(scratch, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", "own.key"));
    assert_says(&other, KEY, "own.key has the key of another certificate");
    let unknown =
        spoiled(|scratch| openssl(scratch, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", "own.key"));
    assert_says(&unknown, KEY, "neither RSA of 2048");
    let public =
        spoiled(|scratch| fs::set_permissions(scratch.path("own.key"), fs::Permissions::from_mode(0o644)).unwrap());
    assert_warns(&public, KEY, "own.key can be read by everybody");
}

/// Keys as programs write them, in all their forms.
#[test]
fn keys_in_every_form() {
    let forms = ["ec -in own.key", "pkey -in own.key"];
    for form in forms {
        let scratch = spoiled(|scratch| openssl(scratch, form, "own.key"));
        assert_eq!(check(&scratch), (vec![], 0), "{form}");
    }
    let scratch = scratch("");
    AUTHORITY.issue(&scratch.path(""), "own", &Request { key: Key::Rsa, ..Request::of(&[NAME]) });
    keep_secret(&scratch, "own.key");
    assert_eq!(check(&scratch), (vec![], 0));
    openssl(&scratch, "rsa -traditional -in own.key", "own.key");
    assert_eq!(check(&scratch), (vec![], 0));
    // With the certificate in the same file, as some authorities have it.
    scratch.write("own.key", scratch.read("own.pem") + &scratch.read("own.key"));
    assert_eq!(check(&scratch), (vec![], 0));
    // As openssl(1) and people comment it, and as some editors of Windows write it.
    scratch.write("own.key", "# It was ENCRYPTED.\n".to_owned() + &scratch.read("own.key"));
    assert_eq!(check(&scratch), (vec![], 0));
    for name in ["own.pem", "own.key"] {
        let text = scratch.read(name).replace("# It was ENCRYPTED.\n", "").replace('\n', "\r\n");
        scratch.write(name, "\u{feff}".to_owned() + &text);
    }
    assert_eq!(check(&scratch), (vec![], 0));
    assert!(secured(&scratch).ask("NOOP").starts_with("250 "));
}

#[test]
fn certificates_beyond_their_time() {
    for (days, what) in [
        ((-10, 0), "own.pem ended on "),
        ((2, 300), "own.pem is not valid before "),
        ((-10, 13), "own.pem ends on "),
        // As `openssl req -x509 -days -1` makes them.
        ((0, -1), "own.pem ends before it begins: "),
    ] {
        let scratch = spoiled(|scratch| {
            AUTHORITY.issue(&scratch.path(""), "own", &Request { days, ..Request::of(&[NAME]) });
            keep_secret(scratch, "own.key");
        });
        assert_warns(&scratch, CERTIFICATE, what);
    }
    // One behind it, too.
    let scratch = spoiled(|scratch| {
        let days = (-10, 0);
        AUTHORITY.issue(&scratch.path(""), "old", &Request { days, ..Request::of(&[NAME]) });
        scratch.write("own.pem", scratch.read("own.pem") + &scratch.read("old.pem"));
    });
    assert_warns(&scratch, CERTIFICATE, "own.pem has a certificate, number 3, that ended on ");
}

#[test]
fn certificates_for_others() {
    let scratch = spoiled(|scratch| {
        AUTHORITY.issue(&scratch.path(""), "own", &Request::of(&["other.example", "*.mx.example"]));
        keep_secret(scratch, "own.key");
    });
    assert_warns(&scratch, CERTIFICATE, "no certificate is for `mx.example`");
    // One of several is enough.
    AUTHORITY.issue(&scratch.path(""), "second", &Request::of(&["*.example", "mx.example"]));
    keep_secret(&scratch, "second.key");
    scratch.write(CONFIG, scratch.read(CONFIG) + "tls_certificate second.pem\ntls_key second.key\n");
    assert_eq!(check(&scratch), (vec![], 0));
}

#[test]
fn chains_in_disorder() {
    let parts = |scratch: &Scratch| {
        let text = scratch.read("own.pem");
        let second = text.rfind("-----BEGIN").unwrap();
        (text[..second].to_owned(), text[second..].to_owned())
    };
    let root = fs::read_to_string(AUTHORITY.root()).unwrap();
    let spoil = |order: &dyn Fn(&str, &str) -> String| {
        spoiled(|scratch| {
            let (own, between) = parts(scratch);
            scratch.write("own.pem", order(&own, &between));
        })
    };
    assert_warns(
        &spoil(&|own, between| format!("{own}{root}{between}")),
        CERTIFICATE,
        "number 2, that did not issue the one before it",
    );
    assert_warns(&spoil(&|own, between| format!("{own}{between}{own}")), CERTIFICATE, "number 3, that did not issue");
    // The first is what the key has to fit.
    assert_says(&spoil(&|own, between| format!("{between}{own}")), KEY, "has the key of another certificate");
    for sound in [spoil(&|own, between| format!("{own}{between}{root}")), spoil(&|own, _| own.to_owned())] {
        assert_eq!(check(&sound), (vec![], 0));
    }
    // What everybody makes to try TLS out.
    let own = spoiled(|scratch| {
        openssl(
            scratch,
            "req -x509 -newkey rsa:2048 -nodes -keyout own.key -days 30 -subj /CN=mx.example -addext subjectAltName=DNS:mx.example",
            "own.pem",
        );
        keep_secret(scratch, "own.key");
    });
    assert_eq!(check(&own), (vec![], 0));
}

#[test]
fn a_sandbox_with_keys_says_so() {
    let scratch = scratch("");
    let said =
        |scratch: &Scratch| String::from_utf8(scratch.run(MAILRECV, &["-c", CONFIG, "check", "-v"]).stdout).unwrap();
    assert!(said(&scratch).contains("\n  certificates and keys, opened before"), "{}", said(&scratch));
    scratch.write(CONFIG, scratch.read(CONFIG) + "tls off\n");
    assert!(!said(&scratch).contains("certificates"), "{}", said(&scratch));
}

#[test]
fn keys_for_tickets() {
    let scratch = scratch_for_tickets();
    assert_eq!(check(&scratch), (vec![], 0));
    fs::set_permissions(scratch.path("tickets"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_warns(&scratch, "6:16", "tickets can be read by everybody");
    let scratch = scratch_for_tickets();
    scratch.write("tickets", [7; 33]);
    assert_says(&scratch, "6:16", "tickets has 33 bytes, and a key for tickets has 32");
}

fn scratch_for_tickets() -> Scratch {
    let scratch = scratch("tls_ticket_key tickets\n");
    scratch.write("tickets", [7; 32]);
    keep_secret(&scratch, "own.key");
    keep_secret(&scratch, "tickets");
    scratch
}
