//! The status page in a browser: with and without JavaScript, in light and dark mode, in the sizes of a desktop, a tablet and a
//! phone.
//!
//! The tests leave screenshots in the directory `tmp/status-page` of the target directory.

use std::fs;
use std::path::Path;

use base64ct::{Base64, Encoding as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::lab::{Browser, Curl, Lab, MIB, Service, run, wait_until};

/// A push and a pull that are slow enough to last minutes.
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

/// Starts four more transfers: two slow pulls, a chunked push, and a push whose client sends no body.
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

/// Restarts the proxy with a site whose only endpoint is down. Then adds an error to the configuration, so that a reload fails.
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
    // A response shows that the process handles signals.
    Curl::new(lab, "--http1.1").request("/v2/", &[]);
    fs::write(&file, config + "misteak = true\n").unwrap();
    let proxy = Pid::from_raw(i32::try_from(lab.proxy_pid()).unwrap()).unwrap();
    kill_process(proxy, Signal::HUP).unwrap();
}

/// Sends fifteen wrong passwords, of which the guess limiter throttles the last ones.
fn send_guesses(lab: &Lab) {
    let curl = Curl::new(lab, "--http1.1");
    for number in 0..15 {
        let login = format!("{}:guess{number}", crate::lab::USER);
        curl.request("/v2/", &["--user", &login]);
    }
}

/// A script that returns the elements with a scroll bar of their own.
const SCROLLING: &str = r"
    const scrolls = (element) => /auto|scroll/.test(getComputedStyle(element).overflow) &&
        (element.scrollHeight > element.clientHeight + 1 || element.scrollWidth > element.clientWidth + 1);
    return [...document.body.querySelectorAll('*')].filter(scrolls).map((element) => element.outerHTML);
";

/// A script for narrow windows. It returns the numbers in tables that are not below their label, or that are on one line with
/// text of the row.
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

/// Sends requests that are rejected for different reasons.
fn send_rejected_requests(lab: &Lab) {
    let curl = Curl::new(lab, "--http2");
    curl.request("/v2/team/app/tags/list", &["--user", "mallory:guess"]);
    curl.request(
        "/v2/%3Cscript%3Ealert(1)%3C/script%3E/tags/list",
        &["--user", "<b>x</b>:\"'"],
    );
    curl.request("/some%3Cb%3Ewhere/'else'&amp;", &[]);
    curl.request_as_user("/v2/", &["--header", "Host: other.example"]);
    curl.request_as_user(&format!("/v2/{}/tags/list", "a/".repeat(60)), &[]);
}

fn has_text(browser: &Browser, words: &str) -> bool {
    let text = browser.text().replace(['\u{a0}', '\u{202f}'], " ");
    text.contains(words)
}

/// The text of a cell in the row of a repository.
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

fn take_screenshot(browser: &Browser, name: &str) {
    let whole = json!({ "format": "png", "captureBeyondViewport": true });
    let screenshot = browser.devtools("Page.captureScreenshot", &whole);
    let image = Base64::decode_vec(screenshot["data"].as_str().unwrap()).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("status-page");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), image).unwrap();
}

fn set_window_size(browser: &Browser, width: u32, height: u32, is_phone: bool) {
    let size = json!({ "width": width, "height": height, "deviceScaleFactor": if is_phone { 2 } else { 1 }, "mobile": is_phone });
    browser.devtools("Emulation.setDeviceMetricsOverride", &size);
}

fn set_color_scheme(browser: &Browser, scheme: &str) {
    let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
    browser.devtools("Emulation.setEmulatedMedia", &features);
}

/// A script that returns the texts with less contrast than WCAG 2 level AA requires (success criterion 1.4.3), and their
/// contrast.
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

fn assert_fits_in_width(browser: &Browser, width: u64) {
    let content_width = browser.script("return document.documentElement.scrollWidth");
    assert!(
        content_width.as_u64().unwrap() <= width,
        "{content_width} is wider than the window"
    );
}

fn assert_no_console_messages(browser: &Browser) {
    let messages = browser.console();
    assert!(messages.is_empty(), "{messages:?}");
}

#[test]
fn the_script_updates_a_push_and_a_pull() {
    let lab = Lab::start();
    let browser = Browser::start(&lab);
    set_window_size(&browser, 1280, 500, false);
    browser.open(&lab.status_page());
    assert_eq!(browser.status(), 200);
    wait_until("the script runs", || has_text(&browser, "live"));
    assert!(has_text(&browser, "Nothing moves right now."));
    browser.script(
        "window.same = true; document.getElementById('pause').focus(); window.scrollTo(0, 120);",
    );
    let _slow = Slow::start(&lab);
    send_rejected_requests(&lab);
    for (repository, direction) in [("team/lighthouse", "↑ push"), ("library/harbour", "↓ pull")]
    {
        wait_until("the transfer is shown", || {
            cell(&browser, repository, 1) == direction
        });
        assert_eq!(cell(&browser, repository, 2), "alice");
        let bytes = cell(&browser, repository, 5);
        wait_until("its bytes grow", || cell(&browser, repository, 5) != bytes);
        wait_until("the transfer has a rate", || {
            cell(&browser, repository, 6).ends_with("iB/s")
        });
    }
    // The script updates the page in place: the page has not been loaded again, and its focus, scroll position and selection
    // remain.
    let kept = "return [window.same === true, document.activeElement.id, window.scrollY]";
    assert_eq!(browser.script(kept), json!([true, "pause", 120]));
    browser.script(
        "document.getSelection().selectAllChildren(document.querySelector('.moving tbody'))",
    );
    let selected = "return document.getSelection().toString()";
    let before = browser.script(selected);
    let as_of = browser.script("return document.getElementById('as-of').textContent");
    wait_until("the page is updated", || {
        browser.script("return document.getElementById('as-of').textContent") != as_of
    });
    assert_eq!(browser.script(selected), before);
    browser.script("document.getSelection().removeAllRanges()");
    assert!(has_text(&browser, "wrong_password") && has_text(&browser, "no site has the host"));
    assert_eq!(
        browser.script("return document.querySelectorAll('script').length"),
        1
    );
    assert_no_console_messages(&browser);
}

#[test]
fn the_script_pauses_continues_and_shows_that_there_is_no_response() {
    let lab = Lab::start();
    let browser = Browser::start(&lab);
    browser.open(&lab.status_page());
    let live =
        |word: &str| browser.script("return document.getElementById('live').textContent") == word;
    wait_until("the script runs", || live("live"));
    let fetches = || {
        browser.script("return performance.getEntriesByType('resource').filter(one => one.initiatorType === 'fetch').length")
    };
    browser.script("document.getElementById('pause').click()");
    assert!(live("paused"));
    browser.script("document.getElementById('pause').click()");
    let before = fetches().as_u64();
    wait_until("the script fetches again", || {
        live("live") && fetches().as_u64() > before
    });
    assert_no_console_messages(&browser);
    // The kernel accepts connections for a stopped process, which sends no response.
    let proxy = Pid::from_raw(i32::try_from(lab.proxy_pid()).unwrap()).unwrap();
    kill_process(proxy, Signal::STOP).unwrap();
    wait_until("the page shows that there is no response", || {
        live("no response: this page is out of date")
    });
    kill_process(proxy, Signal::CONT).unwrap();
    wait_until("the page is live again", || live("live"));
}

#[test]
fn the_page_is_complete_without_javascript() {
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
    // The script hides this link.
    assert!(page().contains("<a id=\"reload\" class=\"button\" href=\"./\">Reload</a>"));
    assert!(page().contains("<span id=\"live\" role=\"status\"></span>"));
    set_window_size(&browser, 1280, 900, false);
    take_screenshot(&browser, "without-script.png");
    assert_no_console_messages(&browser);
}

#[test]
fn the_page_is_valid_and_readable_in_every_size_and_color_scheme() {
    let mut lab = Lab::start();
    break_site_and_reload(&mut lab);
    let _slow = Slow::start(&lab);
    let _transfers = more_transfers(&lab);
    send_rejected_requests(&lab);
    let curl = Curl::new(&lab, "--http1.1");
    for _ in 0..3 {
        curl.request("/v2/app/tags/list", &["--header", "Host: dead.test"]);
    }
    send_guesses(&lab);
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
            has_text(&browser, words) || has_text(&browser, &words.to_lowercase())
        });
    }
    // An upstream error counts as an error of the site, not as a rejection.
    let counts = "return [...document.querySelector('.down').cells].slice(3).map((cell) => cell.textContent)";
    assert_eq!(browser.script(counts), json!(["3", "0", "3"]));
    // All times are in the time zone of the browser and have one format.
    let zone = json!({ "timezoneId": "Asia/Kolkata" });
    browser.devtools("Emulation.setTimezoneOverride", &zone);
    browser.reload();
    let foreign = r"return [...document.querySelectorAll('time')].map((time) => time.textContent)
        .filter((text) => !/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d GMT\+5:30$/.test(text))";
    wait_until("the times are local", || {
        browser.script(foreign) == json!([])
    });
    assert!(has_text(&browser, "GMT+5:30") && !has_text(&browser, "UTC"));
    let drawn = "return document.querySelector('.line.push').getAttribute('d').split('V').length";
    wait_until("the chart has values", || {
        browser.script(drawn).as_u64() > Some(5)
    });
    for (name, width, height, is_phone) in [
        ("desk", 1280, 900, false),
        ("tablet", 768, 1024, false),
        ("phone", 375, 812, true),
    ] {
        set_window_size(&browser, width, height, is_phone);
        for scheme in ["light", "dark"] {
            set_color_scheme(&browser, scheme);
            assert_fits_in_width(&browser, width.into());
            assert_eq!(browser.script(SCROLLING), json!([]), "{name}");
            if width < 800 {
                assert_eq!(browser.script(UNLABELLED), json!([]), "{name}");
            }
            assert_eq!(browser.script(FAINT), json!([]), "{name}, {scheme}");
            take_screenshot(&browser, &format!("{name}-{scheme}.png"));
        }
    }
    set_window_size(&browser, 1280, 900, false);
    let reason = "return document.querySelector('.reason').getBoundingClientRect().width";
    assert!(browser.script(reason).as_f64().unwrap() > 270.0);
    assert_no_console_messages(&browser);
    // The console reports violations of the content security policy.
    browser.script("document.body.setAttribute('style', 'color: red')");
    wait_until("the violation is reported", || {
        let messages = browser.console();
        messages
            .iter()
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
