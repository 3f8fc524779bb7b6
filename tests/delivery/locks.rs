//! Mailboxes that others hold: other programs, and many receivers at once.

use std::time::{Duration, Instant};

use testkit::{Process, debian, wait_until};

use crate::support::Scratch;
use crate::{INBOX, send_to_fred, text_of, with_lf};

/// Another program that holds the mailbox, with either kind of lock, is waited for.
#[test]
fn a_locked_mailbox_is_waited_for() {
    const HOLDER: &str = "import fcntl, os, sys, time\n\
        mailbox = open('inbox', 'a')\n\
        {'flock': fcntl.flock, 'fcntl': fcntl.lockf}[sys.argv[1]](mailbox, fcntl.LOCK_EX)\n\
        open('locked', 'w').close()\n\
        while not os.path.exists('release'): time.sleep(0.01)\n\
        mailbox.write('From other Sat Nov 21 01:32:50 2026\\n\\nfrom the other program\\n\\n')\n";
    for kind in ["flock", "fcntl"] {
        let scratch = Scratch::with_config(INBOX);
        let mut holder = Process::start(scratch.command(debian::program("python3", "python3"), &["-c", HOLDER, kind]));
        wait_until("the lock", || scratch.path("locked").exists().then_some(()));
        let mut session = scratch.greeted();
        session.begin_message(&["fred@mx.example"]);
        session.send("Subject: x\r\n\r\nours\r\n.\r\n");
        assert!(session.is_silent_for(Duration::from_millis(500)), "{kind}: written into a locked mailbox");
        assert_eq!(scratch.read("inbox"), "", "{kind}");
        scratch.write("release", "");
        session.expect("250 2.0.0 ");
        session.quit();
        assert_eq!(holder.exit_code(), 0);
        let inbox = scratch.read("inbox");
        let other = inbox.find("from the other program\n\nFrom sender@client.example ");
        assert!(other.is_some(), "{kind}: ours follows the other's:\n{inbox}");
    }
}

/// Half a minute is enough.
#[test]
fn a_mailbox_that_stays_locked_keeps_the_mail_with_the_sender() {
    let scratch = Scratch::with_config(INBOX);
    let holder = "import fcntl, time\nmailbox = open('inbox', 'a')\nfcntl.flock(mailbox, fcntl.LOCK_EX)\n\
                  open('locked', 'w').close()\ntime.sleep(600)\n";
    let _holder = Process::start(scratch.command(debian::program("python3", "python3"), &["-c", holder]));
    wait_until("the lock", || scratch.path("locked").exists().then_some(()));
    let mut session = scratch.greeted();
    session.begin_message(&["fred@mx.example"]);
    let start = Instant::now();
    session.send("x\r\n.\r\n");
    session.expect("451 4.2.0 ");
    assert!((25..120).contains(&start.elapsed().as_secs()), "after {:?}", start.elapsed());
    session.quit();
}

/// Many at once into one mailbox: each message whole, none in another.
#[test]
fn receivers_share_a_mailbox() {
    let scratch = Scratch::with_config(INBOX);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut session = scratch.greeted();
                for _ in 0..3 {
                    let reply = send_to_fred(&mut session, &text_of(20_000));
                    assert!(reply.starts_with("250 "), "{reply}");
                }
                session.quit();
            });
        }
    });
    let count = "import mailbox, sys\n\
                 bodies = [message.get_payload() for message in mailbox.mbox('inbox')]\n\
                 print(len(bodies), len(set(bodies)), len(bodies[0]))";
    let expected = with_lf(&text_of(20_000)).len() - "Subject: large\n\n".len();
    assert_eq!(scratch.python(count, &[]).trim(), format!("60 1 {expected}"));
}
