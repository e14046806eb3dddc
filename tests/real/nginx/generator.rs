//! Random nginx configurations. The same seed always gives the same configuration.
//!
//! Words in angle brackets stand for what the test knows: ports, password files, upstreams and certificates.

use std::fmt::Write as _;

/// Writes one random configuration.
pub(super) struct Generator {
    state: u64,
    /// How many of the unusual directives are written, in percent: with few of them, more of the configuration can be imported.
    share: usize,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        let mut generator = Self {
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            share: [100, 50, 20][usize::try_from(seed % 3).unwrap()],
        };
        for _ in 0..8 {
            generator.below(2);
        }
        generator
    }

    /// A number below `end` (xorshift64*).
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(random).unwrap() % end
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Whether to write an unusual directive.
    fn unusual(&mut self, percent: usize) -> bool {
        let percent = percent * self.share / 100;
        self.chance(percent)
    }

    pub(super) fn choose<'c>(&mut self, choices: &[&'c str]) -> &'c str {
        choices[self.below(choices.len())]
    }

    pub(super) fn http(&mut self) -> String {
        let mut text = String::from(MAPS);
        if self.chance(10) {
            text.push_str(self.choose(ACCESS));
        }
        let count = 1 + self.below(3);
        for index in 0..count {
            text.push_str(&self.server(index));
        }
        text
    }

    fn server(&mut self, index: usize) -> String {
        let names = if index == 0 { FIRST_NAMES } else { OTHER_NAMES };
        let name = self.choose(names);
        let default = if index > 0 && self.chance(15) {
            " default_server"
        } else {
            ""
        };
        let mut text = String::from("server {\n");
        if self.chance(85) || index == 0 {
            let _ = writeln!(text, "listen 127.0.0.1:<MAIN><SSL>{default};");
        }
        if self.chance(20) {
            text.push_str("listen 127.0.0.2:<MAIN><SSL>;\n");
        }
        if self.chance(20) || !text.contains("listen") {
            text.push_str("listen 127.0.0.1:<OTHER><SSL>;\n");
        }
        let _ = writeln!(
            text,
            "server_name {name};\nssl_certificate <CERT>;\nssl_certificate_key <KEY>;"
        );
        for _ in 0..2 {
            if self.chance(20) {
                text.push_str(self.choose(ACCESS));
            }
        }
        if self.unusual(10) {
            text.push_str(self.choose(CLIENTS));
        }
        if self.unusual(15) {
            text.push_str(self.choose(CONDITIONS));
        }
        if self.unusual(7) {
            text.push_str(self.choose(REWRITES));
        }
        text.push_str("location @closed { return 403; }\n");
        let pass = self.pass("");
        let access = if self.chance(30) {
            self.choose(ACCESS)
        } else {
            ""
        };
        let _ = writeln!(text, "location @open {{ {access} {pass} }}");
        let count = 1 + self.below(5);
        for _ in 0..count {
            text.push_str(&self.location("", 0));
        }
        text.push_str("}\n");
        text
    }

    fn location(&mut self, outer: &str, depth: usize) -> String {
        let is_regex = self.unusual(30);
        let (matcher, prefix) = if is_regex {
            let modifier = self.choose(&["~", "~", "~*"]);
            (
                format!("{modifier} \"{}\"", self.choose(PATTERNS)),
                outer.to_owned(),
            )
        } else {
            let inside: Vec<&str> = PREFIXES
                .iter()
                .copied()
                .filter(|p| p.starts_with(outer))
                .collect();
            let path = if inside.is_empty() {
                outer.to_owned()
            } else {
                self.choose(&inside).to_owned()
            };
            let modifier = self.choose(&["", "", "", "", "= ", "^~ "]);
            (format!("{modifier}{path}"), path)
        };
        let mut text = format!("location {matcher} {{\n");
        for _ in 0..2 {
            if self.chance(35) {
                text.push_str(self.choose(ACCESS));
            }
        }
        for (percent, choices) in [
            (10, &["internal;\n"][..]),
            (15, CONDITIONS),
            (10, REWRITES),
            (12, LIMITS),
            (8, TRY_FILES),
            (8, RETURNS),
        ] {
            if self.unusual(percent) {
                text.push_str(self.choose(choices));
            }
        }
        if self.chance(85) {
            let prefix = if is_regex { "" } else { &prefix };
            let pass = self.pass(prefix);
            text.push_str(&pass);
        }
        if depth < 2 && self.chance(20) {
            let inner = self.location(&prefix, depth + 1);
            text.push_str(&inner);
        }
        text.push_str("}\n");
        text
    }

    fn pass(&mut self, prefix: &str) -> String {
        let upstream = if self.chance(25) { "<TWO>" } else { "<ONE>" };
        let range = 14 * 100 / self.share;
        let path = match self.below(range) {
            0 if !prefix.is_empty() => "/",
            1 if !prefix.is_empty() => prefix,
            2 if !prefix.is_empty() => "/app/",
            3 => "$request_uri",
            4 => "$uri",
            _ => "",
        };
        let header = if self.chance(10) {
            "proxy_set_header Authorization \"\";\n"
        } else if self.chance(10) {
            "proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection \"upgrade\";\n"
        } else if self.unusual(4) {
            self.choose(&[
                "proxy_pass_request_headers off;\n",
                "proxy_pass_request_body off;\n",
            ])
        } else {
            ""
        };
        if self.unusual(4) {
            return format!("{header}set $up {upstream};\nproxy_pass http://$up;\n");
        }
        format!("{header}proxy_pass http://{upstream}{path};\n")
    }
}

const MAPS: &str = "map $request_method $reads { default 0; GET 1; HEAD 1; }\n\
    map $request_method:$uri $purges { default 0; ~^DELETE:/v2/pub 1; }\n\
    map $uri $secret { default 0; ~^/v2/.*/secret 1; /ui/x 1; }\n\
    map $remote_addr $ten { default 0; ~^10\\. 1; }\n\
    map \"$host$uri\" $both { default 0; ~a.test/v2/ 1; }\n\
    geo $near { default 0; 127.0.0.0/8 1; 10.1.0.0/16 1; 10.1.2.0/24 0; }\n\
    upstream pool { server <ONE>; }\n";
const FIRST_NAMES: &[&str] = &[
    "localhost",
    "localhost",
    "_",
    "localhost a.test",
    "*.a.test localhost",
];
const OTHER_NAMES: &[&str] = &[
    "a.test",
    "*.a.test",
    ".a.test",
    "_",
    "b.test",
    "~^[ab]\\.test$",
    "b.*",
];
const ACCESS: &[&str] = &[
    "auth_basic x; auth_basic_user_file <FIRST>;\n",
    "auth_basic x; auth_basic_user_file <FIRST>;\n",
    "auth_basic y; auth_basic_user_file <SECOND>;\n",
    "auth_basic off;\n",
    "deny all;\n",
    "allow 127.0.0.1; deny all;\n",
    "allow 10.0.0.0/8; deny all;\n",
    "allow 10.1.2.0/24; deny 10.0.0.0/8; allow all;\n",
    "deny 10.1.2.3; allow 10.1.0.0/16; deny all;\n",
    "deny 127.0.0.0/8; allow all;\n",
    "deny 127.0.0.0/8;\n",
    "allow 2001:db8::/32; allow 127.0.0.1; deny all;\n",
    "allow all;\n",
    "satisfy any;\n",
    "satisfy all;\n",
];
/// Whose header fields name the client.
const CLIENTS: &[&str] = &[
    "set_real_ip_from 127.0.0.0/8; real_ip_header X-Real-IP;\n",
    "set_real_ip_from 127.0.0.0/8; real_ip_header X-Forwarded-For;\n",
    "set_real_ip_from 127.0.0.0/8; real_ip_header X-Forwarded-For; real_ip_recursive on;\n",
];
const CONDITIONS: &[&str] = &[
    "if ($request_method = DELETE) { return 403; }\n",
    "if ($request_method !~ ^(GET|HEAD)$) { return 405; }\n",
    "if ($request_method = POST) { rewrite ^ /ui/ last; }\n",
    "if ($reads = 0) { return 403; }\n",
    "if ($purges) { return 403; }\n",
    "if ($secret) { return 404; }\n",
    "if ($near = 0) { return 403; }\n",
    "if ($near) { set $x 1; }\nif ($x = 1) { return 403; }\n",
    "set $y a;\nif ($request_method = GET) { set $y \"${y}b\"; }\nif ($y = ab) { return 403; }\n",
    "if ($host != localhost) { return 403; }\n",
    "if ($http_host ~ ^a) { return 403; }\n",
    "if ($cookie_id = \"\") { return 302 https://login.test/; }\n",
    "if ($uri ~* ^/V2/PUB) { return 403; }\n",
    "if ($request_uri ~ secret) { return 403; }\n",
    "if ($http_x_key != sesame) { return 403; }\n",
    "if ($remote_addr = 127.0.0.1) { return 403; }\n",
    "if ($server_port = <OTHER>) { return 403; }\n",
    "if ($request_method = PUT) { break; }\n",
    "if ($remote_addr ~ ^10\\.) { return 403; }\n",
    "if ($ten) { return 403; }\n",
    "if ($both) { return 403; }\n",
    "set $key \"$request_method:$uri\";\nif ($key ~ ^DELETE:/v2/) { return 403; }\n",
    "if ($host ~ ^sub\\.) { return 403; }\n",
    "if ($http_host ~* SUB) { return 403; }\n",
    "if ($request_method = PROPFIND) { return 403; }\n",
    "if ($request_method !~ ^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS)$) { return 405; }\n",
    "if ($request_method ~ ^X-) { return 403; }\n",
    "if ($arg_token ~ ^$) { return 403; }\n",
    "if ($http_x_key = \"\") { return 403; }\n",
    "if ($ssl_server_name != localhost) { return 403; }\n",
    "if ($http_user_agent ~ ^(docker/1\\.(3|4|5(?!\\.[0-9]-dev))|Go).*$) { return 404; }\n",
    "if (-f $request_filename) { break; }\nif (!-f $request_filename) { return 404; }\n",
];
const REWRITES: &[&str] = &[
    "rewrite ^/ui/(.*) /$1 break;\n",
    "rewrite ^/admin /ui/ last;\n",
    "rewrite ^/v2/team/ https://x.test/ permanent;\n",
    "rewrite secret /v2/ last;\n",
    "rewrite ^/old/(.*)$ /v2/$1;\n",
    "rewrite ^/v2/(pub)/(.*)$ /v2/team/$2 last;\nreturn 403;\n",
    "rewrite ^/x /v2/pub/ break;\nrewrite ^/v2/ /ui/ last;\n",
    "break;\n",
];
const LIMITS: &[&str] = &[
    "limit_except GET { deny all; }\n",
    "limit_except GET POST PUT PATCH { deny all; }\n",
    "limit_except GET HEAD { auth_basic x; auth_basic_user_file <FIRST>; }\n",
    "limit_except GET { auth_basic x; auth_basic_user_file <SECOND>; }\n",
    "limit_except GET { allow 10.0.0.0/8; deny all; }\n",
    "limit_except GET PROPFIND { deny all; }\n",
    "limit_except PUT { auth_basic off; allow all; }\n",
];
const TRY_FILES: &[&str] = &[
    "try_files /none @closed;\n",
    "try_files /none @open;\n",
    "try_files /none =404;\n",
    "try_files /none /ui/;\n",
    "try_files /none $uri;\n",
];
const RETURNS: &[&str] = &[
    "return 403;\n",
    "return 404;\n",
    "return 301 https://x.test/;\n",
    "return 401;\n",
    "return 302 /ui/;\n",
    "return 200 text;\n",
];
/// The paths of locations.
pub(super) const PREFIXES: &[&str] = &[
    "/",
    "/v2/",
    "/v2",
    "/v2/pub",
    "/v2/pub/",
    "/v2/team/",
    "/v2/pub/app/",
    "/ui",
    "/ui/",
    "/admin",
    "/admin/",
    "/admin/free/",
    "/v2/team/app/tags/list",
    "/v2/internal-",
    "/v2/\u{fc}/",
    "/ui/hidden-",
];
const PATTERNS: &[&str] = &[
    "^/v2/",
    "^/v2/(pub|team)/",
    "/manifests/",
    "^/ui",
    "\\.js$",
    "^/v2/[a-z]+/secret",
    "^/(admin|ui)/",
    "secret",
    "^/V2/PUB/",
    "^/v2/pub$",
    "^/(ui|admin)(-old)?\\.html$",
    "(free|x)$",
    "/(\\.git|secret)/",
    "^/(v2/)?\u{fc}",
];
/// Further paths of requests.
pub(super) const PATHS: &[&str] = &[
    "/v2/_catalog",
    "/v2/pub/manifests/t",
    "/v2/pub/blobs/uploads/",
    "/v2/pub/secret/manifests/t",
    "/v2/team/secret/manifests/t",
    "/v2/other/tags/list",
    "/ADMIN/x",
    "/V2/PUB/x",
    "/V2/PUB",
    "/old/x",
    "/old/pub/manifests/t",
    "/xy",
    "/ui.html",
    "/admin.html",
    "/admin-old.html",
    "/secret",
    "/\u{fc}/x",
    "/v2/.git/x",
];
