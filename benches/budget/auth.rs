//! What logging in costs, by how the password is kept and what of it is sent.

use std::fs;
use std::num::NonZeroU32;
use std::sync::LazyLock;

use base64ct::{Base64, Encoding};
use ring::{digest, hmac, pbkdf2};

use crate::Result;
use crate::bench::Bench;
use crate::contest::Session;
use crate::peer::Opening;
use crate::sessions::{ONE_RULE, milliseconds};
use crate::table::{Figure, Unit};

pub(crate) fn auth(bench: &mut Bench) -> Result<()> {
    for Account { what, hash, login } in ACCOUNTS {
        let file = format!("account-{}", bench.scratch.read_dir()?.count());
        fs::write(bench.scratch.join(&file), format!("{NAME}:{hash}\n"))?;
        let rules = format!("auth_file \"{{dir}}/{file}\"\nauth_plaintext on\n{ONE_RULE}");
        let mailrecv = bench.mailrecv(&rules)?;
        let figures = [
            Figure::new(&format!("login, {what}, connect to exit"), Unit::AddedMilliseconds, None),
            Figure::new(&format!("login, {what}, peak memory"), Unit::Kibibytes, None),
        ];
        let by_login = Opening { login: Some(login), ..Opening::default() };
        let contestants = [mailrecv.clone().opened_by(by_login), mailrecv.named("mailrecv, without login")];
        bench.measure(figures, bench.few_runs(), &contestants, |contestant, listener| {
            let mut session = Session::open(contestant, listener)?;
            session.hello()?;
            let peak = session.memory("status", "VmHWM:")?;
            session.quit()?;
            Ok([milliseconds(session.connected.elapsed()), peak])
        });
    }
    Ok(())
}

#[derive(Clone, Copy)]
pub(crate) enum Login {
    Plain,
    ScramSha256,
}

impl Login {
    pub(crate) fn log_in(self, session: &mut Session) -> Result<()> {
        match self {
            Login::Plain => {
                let response = Base64::encode_string(format!("\0{NAME}\0{PASSWORD}").as_bytes());
                session.ask(&format!("AUTH PLAIN {response}"), "235")?;
            }
            Login::ScramSha256 => scram(session)?,
        }
        Ok(())
    }
}

/// The client's side of RFC 5802, section 3, as far as a server can see it.
fn scram(session: &mut Session) -> Result<()> {
    let bare = format!("n={NAME},r=0123456789abcdef");
    let first = Base64::encode_string(format!("n,,{bare}").as_bytes());
    let challenge = session.ask(&format!("AUTH SCRAM-SHA-256 {first}"), "334")?;
    let challenge = challenge.trim_end().strip_prefix("334 ").ok_or("an empty challenge")?;
    let challenge = String::from_utf8(Base64::decode_vec(challenge).map_err(|problem| problem.to_string())?)?;
    let nonce = challenge.split(',').next().ok_or("no nonce")?;
    let without_proof = format!("c=biws,{nonce}");
    let signed = format!("{bare},{challenge},{without_proof}");
    let client_key = mac(&*SALTED, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let signature = mac(stored_key.as_ref(), signed.as_bytes());
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, octet)| key ^ octet).collect();
    let last = format!("{without_proof},p={}", Base64::encode_string(&proof));
    session.ask(&Base64::encode_string(last.as_bytes()), "334")?;
    // The server's own proof is no concern of a benchmark.
    session.ask("", "235")?;
    Ok(())
}

fn mac(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

/// How a password is kept, and how one logs in with it.
struct Account {
    what: &'static str,
    hash: &'static str,
    login: Login,
}

/// What `mailrecv passwd` makes of the password, and mkpasswd, as they are on their own.
const ACCOUNTS: [Account; 6] = [
    Account {
        what: "argon2id",
        hash: "$argon2id$v=19$m=19456,t=2,p=1$g5bb7Y9YFwP3VMIqZeq87w$xyjFjfbWJYHIJtqV56D8u9tBZk7Ge7p4OD/yrA8Wbgo",
        login: Login::Plain,
    },
    Account {
        what: "yescrypt",
        hash: "$y$j9T$97vG9gFNFFRIAwT9zCbuV.$0gfT0FjVfrIg4rr5f77A6H7CWPHcdyxhrjcvMSC/S83",
        login: Login::Plain,
    },
    Account {
        what: "sha512-crypt",
        hash: "$6$f6Hz8zPc5YL061WF$a47Gu1gsOOdw6gAtdRtnvCYCtr.L7Re/9D4wgkCKaO3c/rTho6Bw3FN/rs6dHDdaBTy2XV8LxJeryMgvZJ2FB0",
        login: Login::Plain,
    },
    Account {
        what: "sha256-crypt",
        hash: "$5$Tmm./NhCs2fOE7vn$89QSU20HHzltHKDdhxcjj.Kel5SQIm777Mp5YT6Vce8",
        login: Login::Plain,
    },
    Account { what: "keys of SCRAM, PLAIN", hash: SCRAM, login: Login::Plain },
    Account { what: "SCRAM-SHA-256", hash: SCRAM, login: Login::ScramSha256 },
];

const NAME: &str = "bench";

const PASSWORD: &str = "correct horse";

/// SaltedPassword, which clients remember: computing it is no work of a server's.
static SALTED: LazyLock<[u8; digest::SHA256_OUTPUT_LEN]> = LazyLock::new(|| {
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    let salt = *b"0123456789abcdef";
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt, PASSWORD.as_bytes(), &mut salted);
    salted
});

const ITERATIONS: NonZeroU32 = NonZeroU32::new(15_000).unwrap();

const SCRAM: &str = "SCRAM-SHA-256$15000:MDEyMzQ1Njc4OWFiY2RlZg==$\
     2jLIJLf9X/y8uDJx+f+c/Yr0sMPqg1JZecIGzoQev8M=:3DBrRqXLHbAya0X8izWvWi+4zFsrhnxA5eZRJwRHZQY=";
