//! More peers than there are places.

use testkit::Client;

use crate::support::{Installation, Pair, config_with};

/// Sixty connections from one address, then others, three hundred in all. What every one of them is told.
#[test]
fn three_hundred_connections() {
    for pair in Pair::ALL {
        // Nobody is to be sent away for being silent.
        let installation = Installation::boot(pair, &config_with("limit.greet_secs 100000"));
        let mut inside: Vec<Client> = Vec::new();
        let mut turned_away = Vec::new();
        for (host, count) in [(1, 60)].into_iter().chain((2..=9).map(|host| (host, 27))).chain([(10, 24)]) {
            let before = inside.len();
            let mut peers: Vec<Client> = (0..count).map(|_| installation.peer(host)).collect();
            for mut peer in peers.drain(..) {
                match peer.line() {
                    Some(line) if line.starts_with("220 ") => inside.push(peer),
                    told => turned_away.push((host, told)),
                }
            }
            let greeted = inside.len() - before;
            assert_eq!(greeted, if host == 1 { 50 } else { count.min(200 - before) }, "{pair:?}: 127.0.0.{host}");
        }
        assert_eq!((inside.len(), turned_away.len()), (200, 100), "{pair:?}");
        for (host, told) in turned_away {
            match pair {
                Pair::OneService => {
                    assert_eq!(told.as_deref(), Some("421 4.7.0 Too many connections, try again later"), "{host}");
                }
                // systemd closes them.
                Pair::PerConnection => assert_eq!(told, None, "{host}"),
            }
        }
        // Those inside are not concerned, and their places are free afterwards.
        for number in [0, 60, 199] {
            inside[number].deliver_subject("append@mail.example.com", &number.to_string());
        }
        inside.clear();
        testkit::wait_until("a place", || {
            installation.peer(1).line().is_some_and(|line| line.starts_with("220 ")).then_some(())
        });
        assert_eq!(installation.subjects().len(), 3, "{pair:?}");
        installation.assert_nothing_failed();
    }
}
