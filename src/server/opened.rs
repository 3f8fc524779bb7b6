//! Files that a session opens before it gives up root and enters its sandbox.

use crate::accounts::Accounts;
use crate::config::{AuthUse, Config, TlsUse};
use crate::deliver::{Brokers, RelayFiles};
use crate::net::tls::Keys;

/// Files that a configuration names, open and not read yet. A file that cannot be opened is an error only when it is
/// needed.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// Certificates and keys, if there is TLS.
    pub(crate) keys: Keys,
    /// Who may log in, if anybody may.
    pub(crate) accounts: Accounts,
    /// Certificates and secrets for brokers, if a rule publishes.
    pub(crate) brokers: Brokers,
    /// Certificates and passwords for other servers, if a rule passes mail on.
    pub(crate) relay: RelayFiles,
}

impl Opened {
    /// Opens them. Often only root may read a private key, so this comes before root is given up.
    pub(crate) fn open(config: &Config) -> Self {
        Self {
            keys: keys(config),
            accounts: accounts(config),
            brokers: Brokers::open(config),
            relay: RelayFiles::open(config),
        }
    }
}

fn keys(config: &Config) -> Keys {
    let keys = match config.tls() {
        TlsUse::Off => return Keys::default(),
        TlsUse::Offer | TlsUse::Require | TlsUse::Implicit => {
            Keys::open(&config.tls_certificates, &config.tls_keys, config.tls_ticket_key.as_deref())
        }
    };
    if config.tls() == TlsUse::Implicit {
        keys.begin();
    }
    keys
}

/// Who may log in, if anybody may.
pub(crate) fn accounts(config: &Config) -> Accounts {
    match config.auth() {
        AuthUse::Off => Accounts::default(),
        AuthUse::Offer | AuthUse::Require => {
            let users = config.auth_users.iter().map(|(name, password)| (&**name, password.reveal()));
            Accounts::open(config.auth_file.as_deref()).with_users(users)
        }
    }
}
