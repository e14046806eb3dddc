//! Authentication with a cached login, and with a token.
//!
//! `service` calls `Authenticator::authenticate` for every request. Hashing a password is not part of the figure, because each
//! scheme is slow by design.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, SystemTime};

use base64ct::{Base64, Encoding};
use criterion::Criterion;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tempfile::TempDir;
use tidegate::auth::token::TokenIssuer;
use tidegate::auth::token::keys::SigningKeys;
use tidegate::auth::{Authenticator, HashingSettings, PasswordVerifier, ThrottleSettings};
use tidegate::htpasswd::LiveUsers;
use tidegate::net::addr::ClientAddr;
use tidegate::registry::Scope;
use tidegate::www_authenticate;

use crate::{at_once, worker};

pub(crate) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("login");
    for users in [1, 1000] {
        let route = Route::new(users);
        let headers = route.password();
        group.bench_function(format!("cached login, of {users}"), |bencher| {
            bencher.iter(|| {
                let authenticated = route
                    .authenticator
                    .authenticate(black_box(&headers), client());
                at_once(authenticated).unwrap()
            });
        });
    }
    let route = Route::new(1);
    let headers = route.token();
    group.bench_function("token", |bencher| {
        bencher.iter(|| {
            let authenticated = route
                .authenticator
                .authenticate(black_box(&headers), client());
            at_once(authenticated).unwrap()
        });
    });
    group.finish();
}

/// A route with a password file, and a token service.
struct Route {
    authenticator: Authenticator,
    _folder: TempDir,
}

impl Route {
    fn new(users: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("htpasswd");
        // The lowest cost of bcrypt; the first login is not measured.
        let hash = bcrypt::hash(PASSWORD, 4).unwrap();
        let lines: String = (0..users).map(|n| format!("user{n}:{hash}\n")).collect();
        fs::write(&file, lines).unwrap();
        let hashing = HashingSettings {
            threads: 1,
            queue: 8,
            wait: Duration::from_secs(10),
        };
        let throttle = ThrottleSettings {
            guesses: 10,
            window: Duration::from_secs(300),
        };
        let logins = PasswordVerifier::start(hashing, throttle).unwrap();
        let users = LiveUsers::load(&file).unwrap();
        let challenge = www_authenticate::basic_challenge("Registry").unwrap();
        let basic = Authenticator::basic(users, logins.into(), 1024, challenge);
        let keys = SigningKeys::in_memory().unwrap();
        let tokens = TokenIssuer::new(keys, "registry.example.com", "/v2/", LIFETIME);
        Self {
            authenticator: basic.with_tokens(tokens),
            _folder: folder,
        }
    }

    /// The header section of a user with a cached login.
    fn password(&self) -> HeaderMap {
        let login = Base64::encode_string(format!("user0:{PASSWORD}").as_bytes());
        let headers = authorization(&format!("Basic {login}"));
        let first = self.authenticator.authenticate(&headers, client());
        worker().block_on(first).unwrap();
        headers
    }

    /// The header section of a client with a token.
    fn token(&self) -> HeaderMap {
        let service = self.authenticator.token_service("/v2/_token").unwrap();
        let password = self.password();
        let identity = at_once(service.authenticate(&password, client())).unwrap();
        let scope = Scope::parse(["repository:team/app:pull,push"]);
        let issued = service.issue(&identity, &scope, SystemTime::now());
        let issued = issued.unwrap();
        authorization(&format!("Bearer {}", issued.token))
    }
}

fn authorization(value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value.parse().unwrap());
    headers
}

fn client() -> ClientAddr {
    ClientAddr::new([192, 0, 2, 1].into())
}

const PASSWORD: &str = "correct horse battery staple";
const LIFETIME: Duration = Duration::from_secs(900);
