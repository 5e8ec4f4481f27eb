//! Who is logged in: in memory only, so that a restart ends all sessions. Knows no cookies and no
//! passwords.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::config::accounts::Account;
use crate::domain::provenance::Digest;
use crate::system::entropy;

/// A session that is not used ends after this time: a manager who walked away.
pub const IDLE_TIME: Duration = Duration::from_secs(30 * 60);

/// Every session ends after this time: the longest shift.
pub const WHOLE_TIME: Duration = Duration::from_secs(12 * 60 * 60);

/// So many may be logged in; for one more, who has been quiet longest is logged out.
const SESSIONS_MAX: usize = 256;

/// A secret that a browser holds, as 64 hex digits.
pub type Secret = String;

/// The sessions.
#[derive(Default)]
pub struct Sessions {
    /// By the SHA-256 of their secret, so that no comparison tells anything of one.
    by_digest: Mutex<HashMap<[u8; 32], Session>>,
}

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub struct Session {
    /// As whom: when the account is another one by now, the session is over.
    pub account: Account,
    /// What every form of this session must bring.
    pub form_token: Secret,
    began: Instant,
    used: Instant,
}

impl Sessions {
    /// Begins a session; gives the secret that is to come with each request of it.
    pub fn begin(&self, account: Account, now: Instant) -> io::Result<Secret> {
        let (secret, form_token) = (new_secret()?, new_secret()?);
        let session = Session { account, form_token, began: now, used: now };
        let mut sessions = self.sessions();
        sessions.retain(|_, session| session.lasts(now));
        while sessions.len() >= SESSIONS_MAX {
            let quietest = sessions.iter().min_by_key(|(_, session)| session.used);
            let Some(digest) = quietest.map(|(digest, _)| *digest) else { break };
            sessions.remove(&digest);
        }
        sessions.insert(digest_of(&secret), session);
        Ok(secret)
    }

    /// The session with this secret; `None` when it is over, or when its account is not among
    /// `accounts` as it was. It is in use when a person asks, and not when a page does by itself.
    pub fn find(
        &self,
        secret: &str,
        accounts: &[Account],
        is_in_use: bool,
        now: Instant,
    ) -> Option<Session> {
        let mut sessions = self.sessions();
        let digest = digest_of(secret);
        let session = sessions.get_mut(&digest)?;
        if !session.lasts(now) || !accounts.contains(&session.account) {
            sessions.remove(&digest);
            return None;
        }
        if is_in_use {
            session.used = now;
        }
        Some(session.clone())
    }

    /// Ends the session with this secret.
    pub fn end(&self, secret: &str) {
        self.sessions().remove(&digest_of(secret));
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.by_digest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn lasts(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < IDLE_TIME
            && now.saturating_duration_since(self.began) < WHOLE_TIME
    }
}

/// A secret that cannot be guessed.
pub fn new_secret() -> io::Result<Secret> {
    Ok(Digest(entropy::bytes::<32>()?).to_string())
}

fn digest_of(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::accounts::{AccountName, Role};
    use crate::system::clock;

    fn ana() -> Account {
        let name = AccountName::parse("ana").unwrap();
        Account { name, role: Role::Manager, password_hash: "$1".to_owned() }
    }

    /// A manager's session that has just begun.
    pub fn session() -> Session {
        let (sessions, now) = (Sessions::default(), clock::monotonic());
        let secret = sessions.begin(ana(), now).unwrap();
        sessions.find(&secret, &[ana()], true, now).unwrap()
    }

    #[test]
    fn a_session_lasts_while_it_is_used_and_no_longer_than_a_shift() {
        let sessions = Sessions::default();
        let start = clock::monotonic();
        let secret = sessions.begin(ana(), start).unwrap();
        let step = IDLE_TIME * 9 / 10;
        let lasts = |now| sessions.find(&secret, &[ana()], true, now).is_some();
        let mut now = start;
        while now + step < start + WHOLE_TIME {
            now += step;
            assert!(lasts(now), "it was used {step:?} ago");
        }
        assert!(!lasts(start + WHOLE_TIME));
        let secret = sessions.begin(ana(), start).unwrap();
        assert!(sessions.find(&secret, &[ana()], true, start + IDLE_TIME).is_none());
        assert!(sessions.find(&secret, &[ana()], true, start).is_none(), "what is over stays over");
    }

    #[test]
    fn a_page_that_keeps_itself_up_to_date_does_not_keep_a_session() {
        let sessions = Sessions::default();
        let start = clock::monotonic();
        let secret = sessions.begin(ana(), start).unwrap();
        let look = |after| sessions.find(&secret, &[ana()], false, start + after).is_some();
        assert!(look(IDLE_TIME / 2) && look(IDLE_TIME * 9 / 10), "it shows the page meanwhile");
        assert!(!look(IDLE_TIME));
    }

    #[test]
    fn a_session_ends_with_its_account_its_password_its_role_and_by_logging_out() {
        let sessions = Sessions::default();
        let now = clock::monotonic();
        let begin = || sessions.begin(ana(), now).unwrap();
        let changed = [
            Vec::new(),
            vec![Account { password_hash: "$2".to_owned(), ..ana() }],
            vec![Account { role: Role::Viewer, ..ana() }],
        ];
        for accounts in changed {
            let secret = begin();
            assert!(sessions.find(&secret, &accounts, true, now).is_none(), "{accounts:?}");
            assert!(sessions.find(&secret, &[ana()], true, now).is_none(), "it does not come back");
        }
        let (first, second) = (begin(), begin());
        sessions.end(&first);
        assert!(sessions.find(&first, &[ana()], true, now).is_none());
        assert!(sessions.find(&second, &[ana()], true, now).is_some());
        assert!(sessions.find("", &[ana()], true, now).is_none());
    }

    #[test]
    fn who_has_been_quiet_longest_makes_room() {
        let sessions = Sessions::default();
        let start = clock::monotonic();
        let secrets: Vec<Secret> = (0..=SESSIONS_MAX as u64)
            .map(|n| sessions.begin(ana(), start + Duration::from_millis(n)).unwrap())
            .collect();
        let now = start + Duration::from_secs(1);
        assert!(sessions.find(&secrets[0], &[ana()], true, now).is_none());
        assert!(sessions.find(&secrets[1], &[ana()], true, now).is_some());
        assert_eq!(sessions.sessions().len(), SESSIONS_MAX);
    }
}
