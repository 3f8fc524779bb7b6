//! Large messages, and messages of odd shapes, in little memory.

use testkit::process::peak_memory;
use testkit::{Session, output, succeeds};

use crate::support::{PEER, Scratch};
use crate::{INBOX, send_to_fred, text_of, with_lf};

/// 5 MB and 50 MB arrive as they were sent, in a file and through a command, in less than 8 MiB of memory.
#[test]
fn large_messages_arrive_whole_in_little_memory() {
    let scratch = Scratch::with_config(
        "domain mx.example\nlimit.smtp_data_size 0\n\
         deliver rcpt_to fred@mx.example append inbox\n\
         deliver rcpt_to command@mx.example pipe cat > piped\n\
         deliver rcpt_to raw@mx.example pipe_raw cat > raw\n\
         deliver rcpt_to mail@mx.example maildir dir\n",
    );
    for size in [5_000_000, 50_000_000] {
        let text = text_of(size);
        let expected = with_lf(&text);
        for (recipient, file) in
            [("fred@mx.example", "inbox"), ("command@mx.example", "piped"), ("raw@mx.example", "raw")]
        {
            let mut session = scratch.greeted();
            session.begin_message(&[recipient]);
            session.send(&text);
            session.send(".\r\n");
            session.expect("250 2.0.0 ");
            let memory = peak_memory(session.pid()).expect("a running process");
            session.quit();
            assert!(memory < 2 * 1024, "{file}, {size}: {memory} KiB");
            let delivered = std::fs::read(scratch.path(file)).unwrap();
            let header =
                delivered.windows(b"Subject: large".len()).position(|window| window == b"Subject: large").unwrap();
            let body = &delivered[header..];
            let end: &[u8] = if file == "raw" { b"" } else { b"\n" };
            assert!(body.len() == expected.len() + end.len() && body.starts_with(&expected), "{file}, {size}");
            std::fs::remove_file(scratch.path(file)).unwrap();
        }
    }
}

/// One line without an end, a header of one line, a million header lines: memory does not grow with them.
#[test]
fn odd_shapes_of_messages_take_little_memory() {
    let scratch = Scratch::with_config(&format!("{INBOX}limit.smtp_data_size 0\n"));
    let shapes = [
        [b"Subject: x\r\n\r\n".to_vec(), vec![b'x'; 10_000_000], b"\r\n".to_vec()].concat(),
        [b"Subject: ".to_vec(), vec![b'x'; 10_000_000], b"\r\n".to_vec()].concat(),
        b"X-Header: y\r\n".repeat(1_000_000),
        b"\r\n".repeat(2_000_000),
        b">From \r\n".repeat(1_000_000),
        // Longer in a mailbox than they were sent.
        b"Lines:\r\n".repeat(1_000_000),
        b"From x\r\n".repeat(1_000_000),
        [b"From ".to_vec(), vec![b'x'; 10_000_000], b"\r\nSubject: x\r\n".to_vec()].concat(),
    ];
    for text in shapes {
        let mut session = scratch.greeted();
        let reply = send_to_fred(&mut session, &text);
        assert!(reply.starts_with("250 "), "{reply}");
        let memory = peak_memory(session.pid()).expect("a running process");
        session.quit();
        assert!(memory < 2 * 1024, "{memory} KiB");
        std::fs::remove_file(scratch.path("inbox")).unwrap();
    }
}

/// An image of nothing but the program has no folder for temporary files. What memory has room for arrives all the same,
/// and what is larger is put off with words that help.
#[test]
fn without_a_folder_for_it_a_large_message_waits_in_memory_up_to_a_bound() {
    for (config, folder) in [("", "/nonexistent"), ("spool_dir nonexistent\n", "nonexistent")] {
        let scratch = Scratch::with_config(&format!("{INBOX}{config}"));
        let mut command = scratch.mailrecv(&["--peer", PEER]);
        command.env("TMPDIR", "/nonexistent");
        let mut session = Session::start(command);
        session.expect("220 ");
        for size in [300_000, 1_000_000] {
            let text = text_of(size);
            let reply = send_to_fred(&mut session, &text);
            assert!(reply.starts_with("250 "), "{size}: {reply}");
            let inbox = std::fs::read(scratch.path("inbox")).unwrap();
            let expected = with_lf(&text);
            assert!(inbox.windows(expected.len()).any(|window| window == expected), "{size}");
            std::fs::remove_file(scratch.path("inbox")).unwrap();
        }
        let reply = send_to_fred(&mut session, &text_of(5_000_000));
        assert!(reply.starts_with("452 4.3.1 "), "{reply}");
        let memory = peak_memory(session.pid()).expect("a running process");
        assert!(memory < 4 * 1024, "{memory} KiB");
        session.quit();
        assert!(!scratch.path("inbox").exists() || scratch.read("inbox").is_empty());
        let log = scratch.log();
        let why = format!("no file can be made for it in {folder} (No such file or directory");
        assert!(log.iter().any(|line| line.contains(&why) && line.contains("`spool_dir`")), "{log:?}");
    }
    let scratch = Scratch::with_config(INBOX);
    let mut command = scratch.mailrecv(&["check"]);
    command.env("TMPDIR", "/nonexistent");
    let said = output(command);
    let said = String::from_utf8_lossy(&said.stderr);
    let warning = "messages of more than 1 MiB have nowhere to wait while they are received: there is no folder \
                   /nonexistent; name a folder with `spool_dir`";
    assert!(said.contains(warning), "{said}");
}

/// As the C library has it, an empty variable is none.
#[test]
fn an_empty_tmpdir_is_none() {
    let scratch = Scratch::with_config(INBOX);
    let mut command = scratch.mailrecv(&["check", "-v"]);
    command.env("TMPDIR", "");
    let said = succeeds(command, "");
    assert!(said.contains("opened before in /tmp, for large messages"), "{said}");
}
