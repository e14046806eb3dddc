//! A browser: a person who types the address of the registry.

use crate::lab::{Browser, Curl, Lab};

#[test]
fn browser_signs_in_and_sees_the_catalogue() {
    let lab = Lab::start();
    Curl::new(&lab, "--http1.1").push_image("team/app");
    let browser = Browser::start(&lab);
    let password = crate::lab::PASSWORD.replace(':', "%3A");
    browser.open(&format!("https://alice:{password}@{}/v2/", lab.host()));
    assert_eq!((browser.status(), browser.text().trim()), (200, "{}"));
    // The browser keeps what it signed in with.
    browser.open(&lab.url("/v2/_catalog"));
    for _ in 0..2 {
        let catalog: serde_json::Value = serde_json::from_str(&browser.text()).unwrap();
        assert_eq!(catalog["repositories"], serde_json::json!(["team/app"]));
        browser.reload();
    }
}

#[test]
fn browser_with_a_wrong_password_sees_nothing_of_the_registry() {
    let lab = Lab::start();
    Curl::new(&lab, "--http1.1").push_image("team/app");
    let browser = Browser::start(&lab);
    browser.open(&format!("https://alice:wrong@{}/v2/_catalog", lab.host()));
    assert_eq!(browser.status(), 401);
    assert!(!browser.text().contains("team/app"), "{}", browser.text());
}
