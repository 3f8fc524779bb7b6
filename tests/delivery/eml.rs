//! Mail for folders of files.

use std::os::unix::fs::MetadataExt;

use crate::support::Scratch;

/// Each message is a file of its own, named after its id, which mail programs open.
#[test]
fn a_folder_gets_a_file_for_each_message() {
    let scratch = Scratch::with_config("domain mx.example\ndeliver rcpt_to * eml mails\n");
    let mut session = scratch.greeted();
    let mut names = Vec::new();
    for _ in 0..2 {
        let reply = session.deliver(&["fred@mx.example"]);
        let id = reply.trim_end().rsplit_once("id=").unwrap_or_else(|| panic!("{reply}")).1.to_owned();
        names.push(format!("{id}.eml"));
        assert_eq!(files(&scratch), names, "{reply}");
    }
    session.quit();
    let script = "import email, sys\nmail = email.message_from_file(open(sys.argv[1]))\n\
                  print(mail['Return-Path'], mail['Delivered-To'], mail['Subject'], repr(mail.get_payload()))";
    let read = scratch.python(script, &[&format!("mails/{}", names[0])]);
    assert_eq!(read, "<sender@client.example> fred@mx.example test 'body\\n'\n");
    let metadata = scratch.path("mails").join(&names[0]).metadata().unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.nlink()), (0o600, 1));
}

/// In LMTP each recipient has a copy, and each copy a file.
#[test]
fn each_recipient_of_lmtp_has_a_file() {
    let scratch = Scratch::with_config("domain mx.example\nprotocol lmtp\ndeliver rcpt_to * eml mails\n");
    let mut session = scratch.greeted();
    session.exchange("LHLO client.example", "250");
    session.exchange("MAIL FROM:<>", "250 ");
    session.exchange("RCPT TO:<fred@mx.example>", "250 ");
    session.exchange("RCPT TO:<jane@mx.example>", "250 ");
    session.exchange("DATA", "354 ");
    session.send("\r\nbody\r\n.\r\n");
    session.expect("250 ");
    session.expect("250 ");
    session.quit();
    let mut recipients: Vec<String> = scratch
        .contents("mails")
        .into_iter()
        .map(|mail| String::from_utf8(mail).unwrap().lines().nth(1).unwrap().to_owned())
        .collect();
    recipients.sort();
    assert_eq!(recipients, ["Delivered-To: fred@mx.example", "Delivered-To: jane@mx.example"]);
}

/// A message that another destination refuses is in no folder.
#[test]
fn a_refused_message_leaves_no_file() {
    let scratch = Scratch::with_config(
        "domain mx.example\ndeliver rcpt_to fred@mx.example eml mails\n\
         deliver rcpt_to fails@mx.example pipe cat > /dev/null; exit 75\n",
    );
    let mut session = scratch.greeted();
    let reply = session.deliver(&["fails@mx.example", "fred@mx.example"]);
    assert!(reply.starts_with("451 "), "{reply}");
    assert_eq!(files(&scratch), [""; 0]);
    let reply = session.deliver(&["fred@mx.example"]);
    assert!(reply.starts_with("250 "), "{reply}");
    session.quit();
    assert_eq!(files(&scratch).len(), 1);
}

/// What is in the folder of files, in the order of time.
fn files(scratch: &Scratch) -> Vec<String> {
    let entries = std::fs::read_dir(scratch.path("mails")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
