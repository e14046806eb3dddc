//! The status page as people have it: in a browser, live and without a script, light and dark, on a desk and on a phone.
//!
//! Pictures of it are left in the folder `status-page` below the target folder's `tmp`.

use std::fs;
use std::path::Path;

use base64ct::{Base64, Encoding as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::lab::{Browser, Curl, Lab, MIB, Service, run, wait_until};

/// A push and a pull that take minutes.
struct Slow {
    _push: Service,
    _pull: Service,
}

impl Slow {
    fn start(lab: &Lab) -> Self {
        let curl = Curl::new(lab, "--http1.1");
        let file = curl.random_file("large", 96 * MIB);
        let (digest, _) = curl.push_blob("library/harbour", &file);
        let location = curl.start_upload("team/lighthouse");
        let mut push = Self::command(lab, "1M");
        push.arg("--upload-file").arg(&file);
        push.arg(format!("{location}&digest={digest}"));
        let mut pull = Self::command(lab, "2M");
        pull.arg("--output").arg("/dev/null");
        pull.arg(lab.url(&format!("/v2/library/harbour/blobs/{digest}")));
        Self {
            _push: Service::start("push", &push, &lab.path("")),
            _pull: Service::start("pull", &pull, &lab.path("")),
        }
    }

    fn command(lab: &Lab, rate: &str) -> std::process::Command {
        let mut curl = lab.command("curl");
        curl.args(["--silent", "--user", &Lab::credentials(), "--cacert"]);
        curl.arg(lab.certs().ca());
        curl.args(["--limit-rate", rate]);
        curl
    }
}

/// Four more transfers: two slow pulls, a chunked push, and a push whose client sends nothing.
fn more_transfers(lab: &Lab) -> Vec<Service> {
    let curl = Curl::new(lab, "--http1.1");
    let file = curl.random_file("layer", 64 * MIB);
    let (digest, _) = curl.push_blob("team/an-application-with-a-long-name", &file);
    let mut pulls: Vec<_> = ["300K", "60K"].map(|rate| Slow::command(lab, rate)).into();
    for pull in &mut pulls {
        pull.args(["--output", "/dev/null"]);
        pull.arg(lab.url(&format!(
            "/v2/team/an-application-with-a-long-name/blobs/{digest}"
        )));
    }
    let mut chunked = Slow::command(lab, "100K");
    chunked.args([
        "--request",
        "PATCH",
        "--header",
        "Transfer-Encoding: chunked",
    ]);
    chunked.arg("--upload-file").arg(&file);
    chunked.arg(curl.start_upload("team/chunked"));
    let mut silent = lab.command("sh");
    silent.args([
        "-c",
        "mkfifo \"$0\" && exec 3<>\"$0\" && exec curl --silent --user \"$1\" --cacert \"$2\" --request PATCH --upload-file - \"$3\" <&3",
    ]);
    silent.arg(lab.path("fifo")).arg(Lab::credentials());
    silent
        .arg(lab.certs().ca())
        .arg(curl.start_upload("team/silent"));
    let commands = pulls.iter().chain([&chunked, &silent]);
    commands
        .map(|command| Service::start("transfer", command, &lab.path("")))
        .collect()
}

/// Adds a site whose only endpoint is down, and then a mistake, because of which the next reload fails.
fn break_site_and_reload(lab: &mut Lab) {
    let file = lab.path("proxy.toml");
    let config = fs::read_to_string(&file).unwrap();
    let tls = config.lines().find(|line| line.starts_with("tls = "));
    let site = format!(
        "[[site]]\nhosts = [\"dead.test\"]\n{}\n[[site.route]]\npath = \"/v2/\"\n\
         upstream = \"http://127.0.0.1:1\"\nauth = {{ mode = \"none\" }}\n",
        tls.unwrap()
    );
    let config = config + &site;
    fs::write(&file, &config).unwrap();
    lab.restart_proxy();
    // An answer says that the process handles signals.
    Curl::new(lab, "--http1.1").ask("/v2/", &[]);
    fs::write(&file, config + "misteak = true\n").unwrap();
    let gate = Pid::from_raw(i32::try_from(lab.proxy_pid()).unwrap()).unwrap();
    kill_process(gate, Signal::HUP).unwrap();
}

/// Fifteen guesses, of which the limiter throttles the last ones.
fn guesses(lab: &Lab) {
    let curl = Curl::new(lab, "--http1.1");
    for number in 0..15 {
        let login = format!("{}:guess{number}", crate::lab::USER);
        curl.ask("/v2/", &["--user", &login]);
    }
}

/// Elements that have a scroll bar of their own.
const SCROLLING: &str = r"
    const scrolls = (element) => /auto|scroll/.test(getComputedStyle(element).overflow) &&
        (element.scrollHeight > element.clientHeight + 1 || element.scrollWidth > element.clientWidth + 1);
    return [...document.body.querySelectorAll('*')].filter(scrolls).map((element) => element.outerHTML);
";

/// Numbers in tables that do not stand below their label, on a line that has no words of the row's sentence.
const UNLABELLED: &str = r"
    const faults = [];
    for (const cell of document.querySelectorAll('td.number')) {
        const label = getComputedStyle(cell, '::before');
        if (!label.content.includes(cell.dataset.label) || label.display !== 'block') faults.push(cell.outerHTML);
        for (const other of cell.parentElement.cells) {
            const [one, two] = [cell, other].map((element) => element.getBoundingClientRect());
            const overlaps = one.top < two.bottom - 1 && two.top < one.bottom - 1;
            if (!other.classList.contains('number') && overlaps) faults.push(cell.outerHTML + other.outerHTML);
        }
    }
    return faults;
";

/// Some of what is rejected all the time.
fn refusals(lab: &Lab) {
    let curl = Curl::new(lab, "--http2");
    curl.ask("/v2/team/app/tags/list", &["--user", "mallory:guess"]);
    curl.ask(
        "/v2/%3Cscript%3Ealert(1)%3C/script%3E/tags/list",
        &["--user", "<b>x</b>:\"'"],
    );
    curl.ask("/some%3Cb%3Ewhere/'else'&amp;", &[]);
    curl.ask_as_user("/v2/", &["--header", "Host: other.example"]);
    curl.ask_as_user(&format!("/v2/{}/tags/list", "a/".repeat(60)), &[]);
}

fn says(browser: &Browser, words: &str) -> bool {
    let text = browser.text().replace(['\u{a0}', '\u{202f}'], " ");
    text.contains(words)
}

/// What a cell of the row of a repository says.
fn cell(browser: &Browser, repository: &str, cell: usize) -> String {
    let script = format!(
        "const row = [...document.querySelectorAll('.moving tbody tr')].find(row => row.cells[0].textContent.split(' #')[0] === '{repository}');\n\
         return row === undefined ? '' : row.cells[{cell}].textContent;"
    );
    browser
        .script(&script)
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn picture(browser: &Browser, name: &str) {
    let whole = json!({ "format": "png", "captureBeyondViewport": true });
    let taken = browser.devtools("Page.captureScreenshot", &whole);
    let image = Base64::decode_vec(taken["data"].as_str().unwrap()).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("status-page");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), image).unwrap();
}

fn sized(browser: &Browser, width: u32, height: u32, is_phone: bool) {
    let size = json!({ "width": width, "height": height, "deviceScaleFactor": if is_phone { 2 } else { 1 }, "mobile": is_phone });
    browser.devtools("Emulation.setDeviceMetricsOverride", &size);
}

fn schemed(browser: &Browser, scheme: &str) {
    let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
    browser.devtools("Emulation.setEmulatedMedia", &features);
}

/// Texts that have less contrast than WCAG AA asks for (section 1.4.3), and what they have.
const FAINT: &str = r"
    const light = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const parts = (color) => color.match(/[\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => 0.2126 * light(r / 255) + 0.7152 * light(g / 255) + 0.0722 * light(b / 255);
    const ground = (element) => {
        for (let at = element; at !== null; at = at.parentElement) {
            const color = parts(getComputedStyle(at).backgroundColor);
            if (color[3] === undefined || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const faint = [];
    for (const element of document.body.querySelectorAll('*')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.nodeValue.trim() !== '');
        if (!own || element.closest('caption, .unseen, .skip') !== null) continue;
        const [one, other] = [luminance(parts(getComputedStyle(element).color)), luminance(ground(element))];
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        if (contrast < 4.5) faint.push(element.textContent + ' ' + contrast.toFixed(2));
    }
    return faint;
";

fn assert_fits(browser: &Browser, width: u64) {
    let wide = browser.script("return document.documentElement.scrollWidth");
    assert!(
        wide.as_u64().unwrap() <= width,
        "{wide} is wider than the window"
    );
}

fn assert_quiet(browser: &Browser) {
    let said = browser.console();
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn a_push_and_a_pull_are_followed_live() {
    let lab = Lab::start();
    let browser = Browser::start(&lab);
    sized(&browser, 1280, 500, false);
    browser.open(&lab.status_page());
    assert_eq!(browser.status(), 200);
    wait_until("the script runs", || says(&browser, "live"));
    assert!(says(&browser, "Nothing moves right now."));
    browser.script(
        "window.same = true; document.getElementById('pause').focus(); window.scrollTo(0, 120);",
    );
    let _slow = Slow::start(&lab);
    refusals(&lab);
    for (repository, direction) in [("team/lighthouse", "↑ push"), ("library/harbour", "↓ pull")]
    {
        wait_until("it is shown", || cell(&browser, repository, 1) == direction);
        assert_eq!(cell(&browser, repository, 2), "alice");
        let moved = cell(&browser, repository, 5);
        wait_until("its bytes grow", || cell(&browser, repository, 5) != moved);
        wait_until("it has a rate", || {
            cell(&browser, repository, 6).ends_with("iB/s")
        });
    }
    // It is the page that was opened, with its focus and where it was scrolled to; and what is selected stays so.
    let kept = "return [window.same === true, document.activeElement.id, window.scrollY]";
    assert_eq!(browser.script(kept), json!([true, "pause", 120]));
    browser.script(
        "document.getSelection().selectAllChildren(document.querySelector('.moving tbody'))",
    );
    let selected = "return document.getSelection().toString()";
    let before = browser.script(selected);
    let as_of = browser.script("return document.getElementById('as-of').textContent");
    wait_until("it is asked for again", || {
        browser.script("return document.getElementById('as-of').textContent") != as_of
    });
    assert_eq!(browser.script(selected), before);
    browser.script("document.getSelection().removeAllRanges()");
    assert!(says(&browser, "wrong_password") && says(&browser, "no such host here"));
    assert_eq!(
        browser.script("return document.querySelectorAll('script').length"),
        1
    );
    assert_quiet(&browser);
}

#[test]
fn it_pauses_goes_on_and_says_when_nobody_answers() {
    let lab = Lab::start();
    let browser = Browser::start(&lab);
    browser.open(&lab.status_page());
    let live =
        |word: &str| browser.script("return document.getElementById('live').textContent") == word;
    wait_until("the script runs", || live("live"));
    let asked = || {
        browser.script("return performance.getEntriesByType('resource').filter(one => one.initiatorType === 'fetch').length")
    };
    browser.script("document.getElementById('pause').click()");
    assert!(live("paused"));
    browser.script("document.getElementById('pause').click()");
    let before = asked().as_u64();
    wait_until("it asks again", || {
        live("live") && asked().as_u64() > before
    });
    assert_quiet(&browser);
    // A process that stands still accepts, and says nothing.
    let gate = Pid::from_raw(i32::try_from(lab.proxy_pid()).unwrap()).unwrap();
    kill_process(gate, Signal::STOP).unwrap();
    wait_until("it says so", || {
        live("no response: this page is out of date")
    });
    kill_process(gate, Signal::CONT).unwrap();
    wait_until("it is back", || live("live"));
}

#[test]
fn it_is_complete_without_a_script() {
    let lab = Lab::start();
    let _slow = Slow::start(&lab);
    let browser = Browser::start(&lab);
    browser.devtools(
        "Emulation.setScriptExecutionDisabled",
        &json!({ "value": true }),
    );
    browser.open(&lab.status_page());
    let page = || -> String {
        let document = browser.devtools("DOM.getDocument", &json!({}));
        let node = json!({ "nodeId": document["root"]["nodeId"] });
        let html: Value = browser.devtools("DOM.getOuterHTML", &node);
        html["outerHTML"].as_str().unwrap().to_owned()
    };
    for words in ["team/lighthouse", "library/harbour", "alice"] {
        wait_until(words, || {
            browser.reload();
            page().contains(words)
        });
    }
    // The script would have hidden it.
    assert!(page().contains("<a id=\"reload\" class=\"button\" href=\"./\">Reload</a>"));
    assert!(page().contains("<span id=\"live\" role=\"status\"></span>"));
    sized(&browser, 1280, 900, false);
    picture(&browser, "without-script.png");
    assert_quiet(&browser);
}

#[test]
fn it_is_valid_and_can_be_read_on_a_desk_and_a_phone_light_and_dark() {
    let mut lab = Lab::start();
    break_site_and_reload(&mut lab);
    let _slow = Slow::start(&lab);
    let _transfers = more_transfers(&lab);
    refusals(&lab);
    let curl = Curl::new(&lab, "--http1.1");
    for _ in 0..3 {
        curl.ask("/v2/app/tags/list", &["--header", "Host: dead.test"]);
    }
    guesses(&lab);
    let browser = Browser::start(&lab);
    browser.open(&lab.status_page());
    for words in [
        "Moving now 6",
        " of 96 MiB, ",
        " left",
        "waiting",
        "Ready, with errors",
        "cannot serve /v2/: http://127.0.0.1:1 is down since",
        "The reload at",
        "misteak",
        "throttled ×",
        "upstream_unreachable ×3",
    ] {
        wait_until(words, || {
            says(&browser, words) || says(&browser, &words.to_lowercase())
        });
    }
    // An upstream error is an error of the site and no rejection.
    let counts = "return [...document.querySelector('.down').cells].slice(3).map((cell) => cell.textContent)";
    assert_eq!(browser.script(counts), json!(["3", "0", "3"]));
    // All times are in the browser's zone and have one format.
    let zone = json!({ "timezoneId": "Asia/Kolkata" });
    browser.devtools("Emulation.setTimezoneOverride", &zone);
    browser.reload();
    let foreign = r"return [...document.querySelectorAll('time')].map((time) => time.textContent)
        .filter((text) => !/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d GMT\+5:30$/.test(text))";
    wait_until("the times are local", || {
        browser.script(foreign) == json!([])
    });
    assert!(says(&browser, "GMT+5:30") && !says(&browser, "UTC"));
    let drawn = "return document.querySelector('.line.push').getAttribute('d').split('V').length";
    wait_until("there is something to draw", || {
        browser.script(drawn).as_u64() > Some(5)
    });
    for (name, width, height, is_phone) in [
        ("desk", 1280, 900, false),
        ("tablet", 768, 1024, false),
        ("phone", 375, 812, true),
    ] {
        sized(&browser, width, height, is_phone);
        for scheme in ["light", "dark"] {
            schemed(&browser, scheme);
            assert_fits(&browser, width.into());
            assert_eq!(browser.script(SCROLLING), json!([]), "{name}");
            if width < 800 {
                assert_eq!(browser.script(UNLABELLED), json!([]), "{name}");
            }
            assert_eq!(browser.script(FAINT), json!([]), "{name}, {scheme}");
            picture(&browser, &format!("{name}-{scheme}.png"));
        }
    }
    sized(&browser, 1280, 900, false);
    let reason = "return document.querySelector('.reason').getBoundingClientRect().width";
    assert!(browser.script(reason).as_f64().unwrap() > 270.0);
    assert_quiet(&browser);
    // The console would have told of anything that the policy forbids.
    browser.script("document.body.setAttribute('style', 'color: red')");
    wait_until("the policy is kept", || {
        let said = browser.console();
        said.iter()
            .any(|line| line.contains("Content Security Policy"))
    });
    let mut curl = lab.command("curl");
    curl.args(["--silent", "--fail", "--noproxy", "*", "--output"]);
    let file = lab.path("page.html");
    run(curl.arg(&file).arg(format!("http://{}/", lab.admin()))).succeeds();
    let mut tidy = lab.command("tidy");
    tidy.args(["-errors", "-quiet", "-utf8", "--drop-empty-elements", "no"]);
    let found = run(tidy.arg(&file));
    assert!(found.is_success(), "{}", found.story());
}
