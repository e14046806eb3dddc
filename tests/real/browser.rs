//! A browser that opens URLs of the registry API and logs in with HTTP Basic.

use crate::lab::{Browser, Curl, Lab};

#[test]
fn a_browser_logs_in_and_shows_the_catalog() {
    let lab = Lab::start();
    Curl::new(&lab, "--http1.1").push_image("team/app");
    let browser = Browser::start(&lab);
    let password = crate::lab::PASSWORD.replace(':', "%3A");
    browser.open(&format!("https://alice:{password}@{}/v2/", lab.host()));
    assert_eq!((browser.status(), browser.text().trim()), (200, "{}"));
    // The browser sends the same credentials again without a new prompt.
    browser.open(&lab.url("/v2/_catalog"));
    for _ in 0..2 {
        let catalog: serde_json::Value = serde_json::from_str(&browser.text()).unwrap();
        assert_eq!(catalog["repositories"], serde_json::json!(["team/app"]));
        browser.reload();
    }
}

#[test]
fn a_browser_with_a_wrong_password_gets_401() {
    let lab = Lab::start();
    Curl::new(&lab, "--http1.1").push_image("team/app");
    let browser = Browser::start(&lab);
    browser.open(&format!("https://alice:wrong@{}/v2/_catalog", lab.host()));
    assert_eq!(browser.status(), 401);
    assert!(!browser.text().contains("team/app"), "{}", browser.text());
}
