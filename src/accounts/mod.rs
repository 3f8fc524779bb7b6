//! Who may log in, with which password: a file of names and hashes, and users named in the configuration.
//!
//! A line is `NAME:HASH`; empty lines and lines that begin with `#` are ignored. One line is `:secret:SECRET`; answers
//! about names without an account are derived from it. The file is opened while that is possible, and read when a peer
//! logs in.

pub mod hash;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use base64ct::{Base64, Encoding};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

use crate::scram_keys::{self, ScramKeys, mac};
use crate::unread::Unread;
use crate::untrusted::is_invisible;
use hash::Hash;

/// All accounts.
#[derive(Debug, Default)]
pub struct Accounts {
    /// The file, open and not read yet.
    file: Option<Unread>,
    /// The users in the configuration; they come before the file.
    users: Vec<User>,
}

/// A user whose password is in the configuration.
struct User {
    name: String,
    /// A hash of the password. Hashes all have the same length, so comparing them does not reveal how much of a guess
    /// is right.
    password: scram_keys::Key,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl Accounts {
    /// Opens the file, if there is one. A failure is an error only when the file is needed.
    pub fn open(path: Option<&Path>) -> Self {
        Self { file: path.map(Unread::open), users: Vec::new() }
    }

    /// The same accounts with these users and passwords. If a name occurs twice, the first user counts, and users count
    /// before the file.
    pub fn with_users<'u>(self, users: impl Iterator<Item = (&'u str, &'u str)>) -> Self {
        let user =
            |(name, password): (&str, &str)| User { name: name.to_owned(), password: of_user(password.as_bytes()) };
        Self { users: users.map(user).collect(), ..self }
    }

    /// Whether SCRAM-SHA-256 can be offered. Clients prefer it, so it is offered only if it works for everybody: all
    /// hashes have to be SCRAM keys. It is not offered if the file cannot be read, nor if there are users in the
    /// configuration: their salts would have to be derived from public facts, or from the password, and then a stranger
    /// who asks for a salt could try passwords offline.
    pub fn takes_scram(&self) -> bool {
        self.users.is_empty() && self.parsed(|list| Ok(list.takes_scram())).unwrap_or(false)
    }

    /// Whether this is the password of this account. A name without an account takes as long as a wrong password. An
    /// error is our own fault: the file, or the account's line, cannot be used.
    pub fn is_password(&self, name: &str, password: &[u8]) -> anyhow::Result<bool> {
        // The file is read for every name, so that response times do not show who is in it.
        let is_asked = self.file.is_some() || self.users.is_empty();
        let in_file = is_asked.then(|| self.parsed(|list| list.is_password(name, password)));
        let typed = of_user(password);
        let mut of_users = self.users.iter().map(|user| (user.name == name, bool::from(user.password.ct_eq(&typed))));
        match of_users.find(|(is_name, _)| *is_name) {
            Some((_, is_password)) => Ok(is_password),
            None => in_file.unwrap_or(Ok(false)),
        }
    }

    /// Whether there is an account of this name; `None` if the file cannot be read. It says what no peer may find out.
    pub fn has(&self, name: &str) -> Option<bool> {
        if self.users.iter().any(|user| user.name == name) {
            return Some(true);
        }
        match self.file {
            None => Some(false),
            Some(_) => self.parsed(|list| Ok(list.accounts().any(|account| account.name == name))).ok(),
        }
    }

    /// The keys of this account. For a name without an account they are made up, and are always the same if the file
    /// has a secret, so that nobody can find out who has an account. Errors are those of [`Accounts::is_password`].
    pub fn scram_keys(&self, name: &str) -> anyhow::Result<ScramKeys> {
        self.parsed(|list| list.scram_keys(name))
    }

    fn parsed<T>(&self, ask: impl FnOnce(List<'_>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.file.as_ref().context("there is no file of accounts")?.parsed(|text| ask(List(text)))
    }
}

/// What `mailrecv check` finds in the file of accounts.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// How many accounts are usable.
    pub(crate) accounts: usize,
    /// How many of them have SCRAM keys.
    pub(crate) with_scram: usize,
    /// Whether there is a secret.
    pub(crate) has_secret: bool,
    /// Everything that is wrong, in the order of the file.
    pub(crate) mistakes: Vec<Mistake>,
}

/// Something wrong in a line of the file.
#[derive(Debug)]
pub(crate) struct Mistake {
    /// The line, counted from 1.
    pub(crate) line: u32,
    /// The column in `shown` where the wrong part begins, counted from 1.
    pub(crate) column: usize,
    /// How many characters the wrong part has.
    pub(crate) width: usize,
    /// What is wrong.
    pub(crate) message: String,
    /// The line, without any secret or hash.
    pub(crate) shown: String,
}

/// Reads the file as a session does and checks every line. It is an error if it cannot be read.
pub(crate) fn check(path: &Path) -> anyhow::Result<Checked> {
    let text = Unread::open(path).read()?;
    let (mut checked, mut names) = (Checked::default(), HashSet::new());
    for (line, number) in List(&text).lines().zip(1..) {
        let (name, wrong) = match line {
            Line::Nothing => continue,
            Line::Secret(_) if checked.has_secret => {
                (SECRET_NAME, Wrong::Name("a secret is there already: the first line counts, remove one".to_owned()))
            }
            Line::Secret(secret) if secret.len() < SHORTEST_SECRET => (
                SECRET_NAME,
                Wrong::Hash(format!("this secret has less than {SHORTEST_SECRET} characters: {NEW_SECRET}")),
            ),
            Line::Secret(_) => {
                checked.has_secret = true;
                continue;
            }
            Line::Account(Account { name, hash }) => {
                if !names.insert(name) {
                    (name, Wrong::Name("this account is there already: the first line counts, remove one".to_owned()))
                } else if let Some(why) = misnamed(name) {
                    (name, Wrong::Name(why.to_owned()))
                } else {
                    match Hash::parse(hash) {
                        Ok(hash) => {
                            checked.accounts += 1;
                            checked.with_scram += usize::from(hash.is_scram());
                            continue;
                        }
                        Err(why) => (name, Wrong::Hash(why.to_string())),
                    }
                }
            }
            Line::Other(beginning) => (
                beginning,
                Wrong::Hash("a colon and a hash are missing: make a line with `mailrecv passwd NAME`".to_owned()),
            ),
        };
        let length = name.chars().count();
        let (shown, column, width, message) = match wrong {
            Wrong::Name(message) => (format!("{name}:..."), 1, length, message),
            Wrong::Hash(message) => (format!("{name}:..."), length + 2, 3, message),
        };
        checked.mistakes.push(Mistake { line: number, column, width, message, shown });
    }
    Ok(checked)
}

/// Makes a line with a new secret.
pub(crate) fn secret_line() -> anyhow::Result<String> {
    Ok(format!("{SECRET}{}\n", Base64::encode_string(&random()?)))
}

/// Whether the content of a file has a usable secret.
pub(crate) fn has_secret(file: &[u8]) -> bool {
    List(file).secret().is_some()
}

/// Which part of a line is wrong.
enum Wrong {
    Name(String),
    Hash(String),
}

/// Why this cannot be the name of an account, if so.
pub(crate) fn misnamed(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("a name is missing");
    }
    if name.contains(|c: char| c == ':' || c.is_whitespace() || is_invisible(c)) {
        return Some("a name has no colon, no blanks and nothing that cannot be seen");
    }
    name.starts_with('#').then_some("a line that begins with `#` is a comment, so no name does")
}

/// The content of the file.
#[derive(Debug, Clone, Copy)]
struct List<'t>(&'t [u8]);

/// A line of the file.
#[derive(Debug, Clone, Copy)]
enum Line<'t> {
    /// Empty, or a comment.
    Nothing,
    /// The secret from which answers about unknown names are derived.
    Secret(&'t [u8]),
    Account(Account<'t>),
    /// Anything else; the text is its beginning.
    Other(&'t str),
}

/// A name and a hash.
#[derive(Debug, Clone, Copy)]
struct Account<'t> {
    name: &'t str,
    hash: &'t str,
}

impl<'t> List<'t> {
    fn lines(self) -> impl Iterator<Item = Line<'t>> {
        self.0.split(|octet| *octet == b'\n').map(|line| {
            let line = line.trim_ascii_end();
            if line.is_empty() || line.starts_with(b"#") {
                return Line::Nothing;
            }
            if let Some(secret) = line.strip_prefix(SECRET.as_bytes()) {
                return Line::Secret(secret);
            }
            let text = match std::str::from_utf8(line) {
                Ok(text) => text,
                Err(error) => std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default(),
            };
            match text.split_once(':').filter(|_| text.len() == line.len()) {
                Some((name, hash)) => Line::Account(Account { name, hash }),
                None => Line::Other(text.split([':', ' ', '\t']).next().unwrap_or_default()),
            }
        })
    }

    /// The accounts, in the order of the file.
    fn accounts(self) -> impl Iterator<Item = Account<'t>> {
        self.lines().filter_map(|line| match line {
            Line::Account(account) => Some(account),
            Line::Nothing | Line::Secret(_) | Line::Other(_) => None,
        })
    }

    /// The first secret that is long enough not to be guessed.
    fn secret(self) -> Option<&'t [u8]> {
        self.lines().find_map(|line| match line {
            Line::Secret(secret) => Some(secret).filter(|secret| secret.len() >= SHORTEST_SECRET),
            Line::Nothing | Line::Account(_) | Line::Other(_) => None,
        })
    }

    fn takes_scram(self) -> bool {
        // An account with a damaged hash cannot log in by any mechanism, so it does not prevent SCRAM for the others.
        let mut hashes = self.accounts().filter_map(|account| Hash::parse(account.hash).ok()).peekable();
        hashes.peek().is_some() && hashes.all(|hash| hash.is_scram())
    }

    fn is_password(self, name: &str, password: &[u8]) -> anyhow::Result<bool> {
        let (hash, is_known) = self.hash_to_try(name, &self.key_for(name)?)?;
        let is_of = hash.is_of(password).with_context(|| of_account(name))?;
        Ok(is_of && is_known)
    }

    fn scram_keys(self, name: &str) -> anyhow::Result<ScramKeys> {
        let key = self.key_for(name)?;
        let (Hash::Scram(keys), is_known) = self.hash_to_try(name, &key)? else {
            bail!("{} has no keys of SCRAM-SHA-256", of_account(name));
        };
        let made_up = made_up(&key, &keys);
        Ok(if is_known { keys } else { made_up })
    }

    /// The hash that a password is compared with, and whether it belongs to this name. For a name without an account it
    /// is the hash of another account, so that the work is the same. It is an error if there is no usable account at
    /// all: the file may be damaged, so the name cannot be called wrong.
    fn hash_to_try(self, name: &str, key: &scram_keys::Key) -> anyhow::Result<(Hash, bool)> {
        let stand_in = self.stand_in(key);
        // The whole file is read, even if the name was found.
        let known = self.accounts().filter(|account| account.name == name).reduce(|first, _| first);
        let account = known.or(stand_in).context("has no account that can be used")?;
        Ok((Hash::parse(account.hash).with_context(|| of_account(name))?, known.is_some()))
    }

    /// The account that stands in for a name that has none: among the usable accounts, the one for which this key gives
    /// the highest number. It changes only when that account is removed, or a new one has a higher number. So an
    /// unknown name keeps the same answers, just as a known one does.
    fn stand_in(self, key: &scram_keys::Key) -> Option<Account<'t>> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let mut best: Option<(hmac::Tag, Account<'t>)> = None;
        for account in self.accounts() {
            let number = hmac::sign(&key, account.name.as_bytes());
            let is_higher = best.as_ref().is_none_or(|(highest, _)| number.as_ref() > highest.as_ref());
            if is_higher && Hash::parse(account.hash).is_ok() {
                best = Some((number, account));
            }
        }
        best.map(|(_, account)| account)
    }

    /// A key for this name that nobody outside can predict.
    fn key_for(self, name: &str) -> anyhow::Result<scram_keys::Key> {
        let key = match self.secret() {
            Some(secret) => mac(secret, name.as_bytes()),
            None => match self.untold() {
                Some(hash) => mac(hash.as_bytes(), name.as_bytes()),
                // A peer that asks twice sees that the answer changes, so the name has no account. But deriving it from
                // SCRAM keys would be worse: the peer is told their salt, and could check a guessed password against
                // what was made up.
                None => random()?,
            },
        };
        Ok(key)
    }

    /// The first hash whose salt is never told to a peer.
    fn untold(self) -> Option<&'t str> {
        let is_untold = |account: &Account<'_>| matches!(Hash::parse(account.hash), Ok(hash) if !hash.is_scram());
        self.accounts().find(is_untold).map(|account| account.hash)
    }
}

/// Keys of nobody, in the form of `like`. Another number of iterations gives another salt, as if somebody had changed
/// the password.
fn made_up(key: &scram_keys::Key, like: &ScramKeys) -> ScramKeys {
    let ScramKeys { salt, iterations, .. } = like;
    let secret = mac(key, format!("{iterations} {}", salt.len()).as_bytes());
    let part = |number: usize| mac(&secret, format!("salt {number}").as_bytes());
    ScramKeys {
        salt: (0..).flat_map(part).take(salt.len()).collect(),
        iterations: *iterations,
        stored_key: mac(&secret, b"stored"),
        server_key: mac(&secret, b"server"),
    }
}

/// A random key.
fn random() -> anyhow::Result<scram_keys::Key> {
    let mut octets = scram_keys::Key::default();
    SystemRandom::new().fill(&mut octets).map_err(|_| anyhow!("the system has no random numbers"))?;
    Ok(octets)
}

/// The hash of a password from the configuration.
fn of_user(password: &[u8]) -> scram_keys::Key {
    mac(b"auth_user", password)
}

fn of_account(name: &str) -> String {
    format!("the account `{name}`")
}

/// The beginning of the line with the secret, without and with the second colon. No account can have an empty name.
const SECRET_NAME: &str = ":secret";
const SECRET: &str = ":secret:";

/// The length of the shortest secret, in octets: 128 random bits, which cannot be guessed, take as many in base64.
const SHORTEST_SECRET: usize = 22;

/// How to make a line with a secret, for messages to people.
pub(crate) const NEW_SECRET: &str = "make one with `echo \":secret:$(head -c 32 /dev/urandom | base64)\"`";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::collections::HashMap;

    use super::*;

    /// Keys of SCRAM for these passwords, cheap ones.
    fn scram(password: &str) -> String {
        let salt = format!("salt of {password}").into_bytes();
        Hash::Scram(ScramKeys::of_password(password.as_bytes(), salt, 10.try_into().unwrap())).to_string()
    }

    fn answers(text: &str, names: [&str; 4], password: &str) -> [bool; 4] {
        names.map(|name| List(text.as_bytes()).is_password(name, password.as_bytes()).unwrap())
    }

    #[test]
    fn passwords() {
        let text = format!("# comment:\n\nfred:{}\r\njane@mx.example:{}", scram("one"), scram("two"));
        let names = ["fred", "jane@mx.example", "Fred", "nobody"];
        assert_eq!(answers(&text, names, "one"), [true, false, false, false]);
        assert_eq!(answers(&text, names, "two"), [false, true, false, false]);
        assert_eq!(answers(&text, names, ""), [false; 4]);
        assert_eq!(answers(&text, ["", "#", "# comment", "\n"], "one"), [false; 4]);
    }

    #[test]
    fn the_first_of_two_lines_counts() {
        let text = format!("fred:{}\nfred:{}\n", scram("one"), scram("two"));
        let list = List(text.as_bytes());
        assert!(list.is_password("fred", b"one").unwrap() && !list.is_password("fred", b"two").unwrap());
    }

    /// For a name that has no account the work is that for one that has: a password is held against a hash of the file.
    #[test]
    fn work_for_unknown_names() {
        let passwords = ["one", "two", "three"];
        let scram = file(SECRET, &[("fred", "one", 10), ("jane", "two", 10), ("bob", "three", 10)]);
        // Salts that nobody is told are as good as a secret.
        let untold = "fred:$5$Tmm./NhCs2fOE7vn$89QSU20HHzltHKDdhxcjj.Kel5SQIm777Mp5YT6Vce8\n";
        let mixed = format!("{untold}{}", file("", &[("jane", "two", 10), ("bob", "three", 10)]));
        for text in [&scram, &mixed] {
            let list = List(text.as_bytes());
            let mut tried = HashMap::new();
            for number in 0..300 {
                let name = format!("nobody{number}");
                let try_hash = || list.hash_to_try(&name, &list.key_for(&name).unwrap()).unwrap();
                let (hash, is_known) = try_hash();
                let hash = hash.to_string();
                assert!(!is_known && text.contains(&hash));
                assert_eq!(try_hash().0.to_string(), hash, "always the same");
                // Not even with the password of the one whose hash that is.
                if hash.starts_with("SCRAM") {
                    assert!(passwords.iter().all(|it| !list.is_password(&name, it.as_bytes()).unwrap()));
                }
                *tried.entry(hash).or_insert(0) += 1;
            }
            assert!(tried.len() == 3 && tried.values().all(|count| *count > 50), "{tried:?}");
        }
    }

    /// A hash that only using it shows to be damaged tells that it was used.
    #[test]
    fn a_password_of_nobody_is_tried() {
        let text = b"fred:$y$j9T$z$0gfT0FjVfrIg4rr5f77A6H7CWPHcdyxhrjcvMSC/S83\n";
        for name in ["fred", "nobody"] {
            let error = format!("{:#}", List(text).is_password(name, b"secret").unwrap_err());
            assert!(error.contains(": this hash is damaged: "), "{name}: {error}");
        }
    }

    /// A line that nobody can foretell.
    const SECRET: &str = ":secret:Xq3mW0bVh0n8l9m2Jm0m5o5yVh8d2b1xk0m5o5yVh8c=\n";

    /// A file with this secret and these accounts: names, passwords, iterations.
    fn file(secret: &str, accounts: &[(&str, &str, u32)]) -> String {
        let line = |(name, password, iterations): &(&str, &str, u32)| {
            let salt = format!("salt of {password}").into_bytes();
            let keys = ScramKeys::of_password(password.as_bytes(), salt, (*iterations).try_into().unwrap());
            format!("{name}:{}\n", Hash::Scram(keys))
        };
        accounts.iter().map(line).collect::<String>() + secret
    }

    fn keys(text: &str, name: &str) -> ScramKeys {
        List(text.as_bytes()).scram_keys(name).unwrap()
    }

    #[test]
    fn keys_for_unknown_names() {
        let text = file(SECRET, &[("fred", "one", 10), ("jane", "other", 10)]);
        assert_eq!(keys(&text, "fred"), ScramKeys::of_password(b"one", b"salt of one".into(), 10.try_into().unwrap()));
        let nobody = keys(&text, "nobody");
        assert_eq!(nobody, keys(&text, "nobody"));
        let others = ["nobodz", "fred", "jane"].map(|name| keys(&text, name));
        assert!(others.iter().all(|other| other.salt != nobody.salt && other.stored_key != nobody.stored_key));
        assert!(["salt of one".len(), "salt of other".len()].contains(&nobody.salt.len()));
        // A long salt has no part twice.
        let long = ScramKeys::of_password(b"one", vec![1; 80], 10.try_into().unwrap());
        let salt = keys(&format!("fred:{}\n{SECRET}", Hash::Scram(long)), "nobody").salt;
        let parts: HashSet<&[u8]> = salt.chunks_exact(16).collect();
        assert_eq!((salt.len(), parts.len()), (80, 5));
        assert!(List(b"").scram_keys("nobody").is_err() && List(SECRET.as_bytes()).scram_keys("nobody").is_err());
    }

    /// Otherwise whoever knows somebody's name could try passwords by himself: the right one makes the same keys up.
    #[test]
    fn what_is_made_up_is_made_of_no_password() {
        let made_up = |secret, password| keys(&file(secret, &[("fred", password, 10)]), "nobody");
        let (one, other) = (made_up(SECRET, "one"), made_up(SECRET, "two"));
        assert_eq!(one, other);
        let another_secret = SECRET.replace('X', "Y");
        assert_ne!(made_up(&another_secret, "one").salt, one.salt);
        // Where there is no secret, or one that can be guessed, nobody can say what comes next.
        for secret in
            ["", ":secret:\n", ":secret:hunter2\n", "# :secret:Xq3mW0bVh0n8l9m2Jm0m5o5yVh8d2b1xk0m5o5yVh8c=\n"]
        {
            assert_ne!(made_up(secret, "one").salt, made_up(secret, "one").salt, "{secret}");
        }
        // The first of two counts.
        assert_eq!(made_up(&[SECRET, &another_secret].concat(), "one"), one);
    }

    /// If another account changed the salt or the iterations of a name, that would show that it has none. A name whose
    /// iterations change has another salt, as if its password had been changed.
    #[test]
    fn what_is_made_up_does_not_change_with_the_accounts() {
        let accounts = [("fred", "one", 10), ("jane", "two", 20), ("bob", "three", 10), ("eve", "four", 20)];
        let more = [&accounts[..], &[("dora", "five", 30)]].concat();
        let turned = [accounts[3], accounts[1], accounts[0], accounts[2]];
        let (before, after, turned) = (file(SECRET, &accounts), file(SECRET, &more), file(SECRET, &turned));
        let mut changed = 0;
        for number in 0..200 {
            let name = format!("nobody{number}");
            let [before, after, turned] = [&before, &after, &turned].map(|text| keys(text, &name));
            assert_eq!(before, turned, "{name}");
            if before != after {
                changed += 1;
                assert!(after.iterations.get() == 30 && before.salt != after.salt, "{name}");
            }
        }
        // The new account is one of five, so it stands in for about a fifth of the names.
        assert!((20..60).contains(&changed), "{changed}");
    }

    /// Nobody logs in with the line of the secret, nor is it an account.
    #[test]
    fn the_secret_is_no_account() {
        let text = file(SECRET, &[("fred", "one", 10)]);
        assert_eq!(answers(&text, ["", ":secret", "secret", ":secret:"], SECRET.trim_end()), [false; 4]);
        assert!(List(text.as_bytes()).takes_scram() && !List(SECRET.as_bytes()).takes_scram());
        assert!(List(SECRET.as_bytes()).is_password("fred", b"one").is_err());
    }

    #[test]
    fn what_can_be_offered() {
        let (scram, other) = (scram("one"), "$5$Tmm./NhCs2fOE7vn$89QSU20HHzltHKDdhxcjj.Kel5SQIm777Mp5YT6Vce8");
        for (text, takes_scram) in [
            (format!("fred:{scram}\n"), true),
            (format!("fred:{scram}\njane:{other}\n"), false),
            (format!("fred:{other}\n"), false),
            (format!("fred:{scram}\njane:damaged\n"), true),
            ("jane:damaged\n".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(List(text.as_bytes()).takes_scram(), takes_scram, "{text}");
        }
    }

    /// Where our own file is at fault, nobody is told that a password is wrong.
    #[test]
    fn own_faults() {
        let list =
            List(b"fred:{PLAIN}secret\njane:$5$rounds=999999999$a$89QSU20HHzltHKDdhxcjj.Kel5SQIm777Mp5YT6Vce8\n");
        for name in ["fred", "jane"] {
            let error = format!("{:#}", list.is_password(name, b"secret").unwrap_err());
            assert!(error.starts_with(&format!("the account `{name}`: this ")), "{error}");
            assert!(!error.contains("secret"), "{error}");
            assert!(list.scram_keys(name).is_err());
        }
        // Nor whose line is missing where there is none that can be used.
        for list in [list, List(b""), List(b"# all gone\nfr")] {
            let error = list.is_password("nobody", b"secret").unwrap_err().to_string();
            assert_eq!(error, "has no account that can be used");
        }
        let gone = Accounts::open(Some(Path::new("/no/such/file")));
        let error = format!("{:#}", gone.is_password("fred", b"secret").unwrap_err());
        assert!(error.starts_with("/no/such/file: cannot be opened: "), "{error}");
        assert!(!gone.takes_scram() && gone.scram_keys("fred").is_err());
    }

    #[test]
    fn users_of_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts");
        std::fs::write(&path, format!("fred:{}\njane:{}\n", scram("one"), scram("two"))).unwrap();
        let users = [("fred", "three"), ("fred", "four"), ("\u{fc}ser name", "p:w d")];
        let both = Accounts::open(Some(&path)).with_users(users.into_iter());
        let alone = Accounts::default().with_users(users.into_iter());
        for (name, password, of_both, of_alone) in [
            ("fred", "three", true, true),
            ("fred", "four", false, false),
            ("fred", "one", false, false),
            ("jane", "two", true, false),
            ("jane", "three", false, false),
            ("\u{fc}ser name", "p:w d", true, true),
            ("Fred", "three", false, false),
            ("", "three", false, false),
            ("fred", "", false, false),
            ("fred", "thre", false, false),
            ("fred", "threee", false, false),
        ] {
            let is_password = |accounts: &Accounts| accounts.is_password(name, password.as_bytes()).unwrap();
            assert_eq!((is_password(&both), is_password(&alone)), (of_both, of_alone), "{name} {password}");
        }
        // Clients would prefer SCRAM, and fred could not.
        assert!(Accounts::open(Some(&path)).takes_scram() && !both.takes_scram() && !alone.takes_scram());
        assert!(!format!("{both:?}").contains("three"), "{both:?}");
        // A file that cannot be read costs those in it alone.
        let gone = Accounts::open(Some(Path::new("/no/such/file"))).with_users(users.into_iter());
        assert!(gone.is_password("fred", b"three").unwrap() && gone.is_password("jane", b"two").is_err());
        // Where there is nobody at all, that is our fault and not that of who logs in.
        assert!(Accounts::default().is_password("fred", b"three").is_err());
    }
}
