//! Every form of a value with its errors, missing keys, and unknown keys with what was probably meant.

use std::time::Duration;

use super::super::form::{Boolean, List, Named, Number, Size, SizeOrBytes, Status, Text, Time};
use super::super::problem::Problems;
use super::super::value::any_text;
use super::*;

const fn key<F>(name: &'static str, form: F) -> Key<F> {
    Key {
        name,
        doc: "",
        form,
    }
}

const TEXT: Key<Text<String>> = key("text", Text(any_text));
const BOOLEAN: Key<WithDefault<Boolean>> = key(
    "boolean",
    WithDefault {
        form: Boolean,
        default: true,
    },
);
const NUMBER: Key<Number<u8>> = key("number", Number::new(1..=16));
const COUNT: Key<WithDefault<Number<u16>>> = key(
    "count",
    WithDefault {
        form: Number::new(1..=70_000),
        default: 3,
    },
);
const SIZE: Key<WithDefault<Size<u64>>> = key(
    "size",
    WithDefault {
        form: Size::new(16..=1 << 20),
        default: 7,
    },
);
const BYTES: Key<WithDefault<SizeOrBytes>> = key(
    "bytes",
    WithDefault {
        form: SizeOrBytes,
        default: 8,
    },
);
const WAIT: Key<WithDefault<Time>> = key(
    "wait",
    WithDefault {
        form: Time::Wait,
        default: Duration::from_secs(5),
    },
);
const STATUS: Key<Status> = key("status", Status);
const LIST: Key<List<String>> = key("list", List(any_text));
const PAIRS: Key<Named<Text<String>>> = key(
    "pairs",
    Named {
        form: Text(any_text),
        expected: "a table of strings",
    },
);
const LISTS: Key<Named<List<String>>> = key(
    "lists",
    Named {
        form: List(any_text),
        expected: "a table of lists of strings",
    },
);
const FILES: Key<TableForm> = key("files", TableForm(&[&TEXT]));
const TABLE: Key<TableForm> = key("table", TableForm(&[&NUMBER, &COUNT, &WAIT]));
const TABLES: Key<TableListForm> = key("tables", TableListForm(&[&TEXT, &LIST, &FILES, &INNER]));
const INNER: Key<TableForm> = key("inner", TableForm(&[&BOOLEAN, &NUMBER]));

const KEYS: Keys = &[
    &TEXT, &BOOLEAN, &NUMBER, &COUNT, &SIZE, &BYTES, &WAIT, &STATUS, &LIST, &PAIRS, &LISTS, &FILES,
    &TABLE, &TABLES,
];

fn shown(problems: &Problems) -> String {
    let all: Vec<_> = problems.sorted().iter().map(ToString::to_string).collect();
    all.join("\n")
        .replace("error: ", "")
        .replace("\n    ", " | ")
}

/// Reads a file, and returns its problems: each on one line, without `error: `.
fn problems_of<T>(text: &str, read: impl FnOnce(&Table<'_>) -> T) -> String {
    let document = Document::parse("x", text.as_bytes()).unwrap();
    let root = Table::root(&document, KEYS);
    let _ = read(&root);
    shown(&document.into_problems())
}

#[test]
fn values_have_their_positions() {
    let text = "text = \"ä\"\nboolean = true\nnumber = 0x10\n wait = \"15m\"\nsize = \"1KiB\"\nlist = [\n  \"x\", \"é\", \"y\"\n]\nbytes = 5\nstatus = 404\n";
    let problems = problems_of(text, |root| {
        let at = |line, column| Position {
            file: 0,
            line,
            column,
        };
        let text = root.get(&TEXT).unwrap();
        assert_eq!((text.as_str(), text.place), ("ä", at(1, 8)));
        let boolean = root.get(&BOOLEAN).unwrap();
        assert_eq!((*boolean, boolean.place), (true, at(2, 11)));
        let number = root.get(&NUMBER).unwrap();
        assert_eq!((*number, number.place), (16, at(3, 10)));
        let wait = root.get(&WAIT).unwrap();
        assert_eq!((*wait, wait.place), (Duration::from_secs(900), at(4, 9)));
        let size = root.get(&SIZE).unwrap();
        assert_eq!((*size, size.place), (1024, at(5, 8)));
        let list = root.get(&LIST).unwrap();
        let places: Vec<_> = list
            .items
            .iter()
            .map(|item| (item.value.as_str(), item.place))
            .collect();
        assert_eq!(places, [("x", at(7, 3)), ("é", at(7, 8)), ("y", at(7, 13))]);
        assert_eq!(list.place, at(6, 8));
        assert_eq!(root.value(&BYTES), 5);
        assert_eq!(root.get(&STATUS).unwrap().as_u16(), 404);
        assert_eq!(root.place_of(&WAIT), Some(at(4, 2)));
        assert_eq!(root.place_of(&COUNT), None);
        assert_eq!(
            number.map(|number| number + 1),
            Spanned {
                value: 17,
                place: at(3, 10)
            }
        );
    });
    assert_eq!(problems, "");
}

#[test]
fn a_key_that_is_not_written_has_its_default() {
    let problems = problems_of("", |root| {
        assert!(root.value(&BOOLEAN));
        assert_eq!(root.value(&COUNT), 3);
        assert_eq!(root.value(&WAIT), Duration::from_secs(5));
        assert_eq!(root.value(&SIZE), 7);
        assert_eq!(root.value(&BYTES), 8);
        assert!(root.get(&TEXT).is_none() && root.get(&LIST).is_none());
        assert!(root.get(&STATUS).is_none() && root.get(&PAIRS).is_none());
        assert!(root.table(&TABLE).is_none() && root.tables(&TABLES).is_empty());
        assert!(root.string_or_table(&FILES).is_none());
        let empty = root.table_or_empty(&TABLE);
        assert_eq!(
            (empty.value(&COUNT), empty.path_of(&COUNT)),
            (3, "table.count".to_owned())
        );
    });
    assert_eq!(problems, "");
}

#[test]
fn single_values_of_the_wrong_kind_are_rejected() {
    let check = |shown: String, expected: &str| assert_eq!(shown, expected);
    check(
        problems_of("text = 1", |t| t.get(&TEXT)),
        "1:8: text: expected a string, found 1 | fix: put it between double quotes",
    );
    check(
        problems_of("text = true", |t| t.get(&TEXT)),
        "1:8: text: expected a string, found a boolean | fix: put it between double quotes",
    );
    check(
        problems_of("text = []", |t| t.get(&TEXT)),
        "1:8: text: expected a string, found a list | fix: remove the brackets, and keep one string",
    );
    check(
        problems_of("boolean = 'hunter2'", |t| t.get(&BOOLEAN)),
        "1:11: boolean: expected true or false, found a string | fix: write true or false",
    );
    check(
        problems_of("boolean = 'true'", |t| t.get(&BOOLEAN)),
        "1:11: boolean: expected true or false, found a string | fix: write it without quotes",
    );
    check(
        problems_of("status = 99999999999999999999", |t| t.get(&STATUS)),
        "1:10: status: it is not in the range 200 to 599 | fix: write a value from 200 to 599",
    );
    check(
        problems_of("status = '404'", |t| t.get(&STATUS)),
        "1:10: status: expected a status such as 404, found a string | fix: write it without quotes",
    );
}

#[test]
fn numbers_outside_of_their_range_are_rejected() {
    let check = |shown: String, expected: &str| assert_eq!(shown, expected);
    check(
        problems_of("count = 70000", |t| t.get(&COUNT)),
        "1:9: count: expected a whole number from 1 to 70000, found 70000 | fix: write a whole number from 1 to 70000",
    );
    check(
        problems_of("number = 0", |t| t.get(&NUMBER)),
        "1:10: number: expected a whole number from 1 to 16, found 0 | fix: write a whole number from 1 to 16",
    );
    check(
        problems_of("number = '4'", |t| t.get(&NUMBER)),
        "1:10: number: expected a whole number from 1 to 16, found a string | fix: write it without quotes",
    );
    check(
        problems_of("size = 1.5", |t| t.get(&SIZE)),
        "1:8: size: expected a size such as \"32KiB\", found a number with a fraction | fix: write a size such as \"32KiB\"",
    );
    check(
        problems_of("size = '1B'", |t| t.get(&SIZE)),
        "1:8: size is out of range | fix: write a size from 16B to 1MiB",
    );
    check(
        problems_of("bytes = -1", |t| t.get(&BYTES)),
        "1:9: bytes: expected a size such as \"32KiB\", or a number of bytes, found -1 | fix: write a whole number and a unit, as in \"1536MiB\"",
    );
    check(
        problems_of("wait = 75", |t| t.get(&WAIT)),
        "1:8: wait: expected a duration such as \"30s\", found 75 | fix: write \"75s\"",
    );
    check(
        problems_of("wait = '0s'", |t| t.get(&WAIT)),
        "1:8: wait is zero | why: every wait would end immediately | fix: write how long to wait, as in \"10s\"",
    );
}

#[test]
fn lists_and_tables_of_the_wrong_kind_are_rejected() {
    let check = |shown: String, expected: &str| assert_eq!(shown, expected);
    check(
        problems_of("list = 'a'", |t| t.get(&LIST)),
        "1:8: list: expected a list of strings, [\"…\", \"…\"], found a string | fix: put it between brackets, as in [\"…\"]",
    );
    check(
        problems_of("list = ['a', 1]", |t| t.get(&LIST)),
        "1:14: list: expected a string, found 1 | fix: put it between double quotes",
    );
    check(
        problems_of("table = []", |t| t.table(&TABLE).is_some()),
        "1:9: table: expected a table, found a list | fix: write [table], and its keys on the lines below",
    );
    check(
        problems_of("tables = [1]", |t| t.tables(&TABLES).is_empty()),
        "1:11: tables: expected a list of tables, found 1 | fix: write [[tables]], with two brackets",
    );
    check(
        problems_of("tables = 1", |t| t.tables(&TABLES).is_empty()),
        "1:10: tables: expected a list of tables, found 1 | fix: write [[tables]], with two brackets",
    );
    check(
        problems_of("[tables]", |t| assert_eq!(t.tables(&TABLES).len(), 1)),
        "1:1: tables: expected a list of tables, found one table | fix: write [[tables]], with two brackets",
    );
    check(
        problems_of("files = 2020-01-01", |t| {
            t.string_or_table(&FILES).is_some()
        }),
        "1:9: files: expected a string or a table, found a date | fix: write [files], and its keys on the lines below",
    );
    check(
        problems_of("pairs = { x = 1 }", |t| t.get(&PAIRS).is_some()),
        "1:15: pairs.x: expected a string, found 1 | fix: put it between double quotes",
    );
    check(
        problems_of("pairs = ['x']", |t| t.get(&PAIRS).is_some()),
        "1:9: pairs: expected a table of strings, found a list | fix: write a table of strings",
    );
}

#[test]
fn the_error_of_a_parser_is_reported_with_its_reason_and_remedy() {
    assert_eq!(
        problems_of("[table]\nwait = \"75\"", |root| root
            .table(&TABLE)
            .map(|table| table.get(&WAIT))),
        "2:8: table.wait: the unit is missing | why: the units are ms, s, m, h and d | fix: write \"75s\""
    );
}

#[test]
fn the_accepted_elements_of_a_list_are_kept() {
    problems_of("list = ['a', 1]", |root| {
        let list = root.get(&LIST).unwrap();
        assert!(list.items.len() == 1 && !list.is_complete() && !list.is_written_empty());
    });
}

#[test]
fn a_value_may_be_a_string_or_a_table() {
    let text = "[[tables]]\nfiles = \"acme\"\n[[tables]]\nfiles = { text = \"a\" }\n";
    let problems = problems_of(text, |root| {
        let tables = root.tables(&TABLES);
        assert_eq!((tables.len(), tables[1].place().line), (2, 3));
        let Some(Choice::String(word)) = tables[0].string_or_table(&FILES) else {
            panic!("no string");
        };
        assert_eq!(word.parse(any_text).unwrap().value, "acme");
        let Some(Choice::Table(files)) = tables[1].string_or_table(&FILES) else {
            panic!("no table");
        };
        assert_eq!(files.path_of(&TEXT), "tables.files.text");
        assert_eq!(
            files.place(),
            Position {
                file: 0,
                line: 4,
                column: 9
            }
        );
        assert_eq!(files.get(&TEXT).unwrap().value, "a");
    });
    assert_eq!(problems, "");
}

#[test]
fn an_inline_list_of_tables_is_a_list_of_tables() {
    let text = "tables = [{ list = [\"a\"] }, { list = [\"b\"] }]";
    let problems = problems_of(text, |root| {
        let tables = root.tables(&TABLES).into_iter();
        let lists: Vec<_> = tables
            .map(|table| table.get(&LIST).unwrap().items[0].value.clone())
            .collect();
        assert_eq!(lists, ["a", "b"]);
    });
    assert_eq!(problems, "");
}

#[test]
fn names_that_the_author_chooses_are_in_the_order_of_the_file() {
    let text = "[lists]\nzoe = [\"bot\", \"alice\"]\nci = []\nbad = 1\n[pairs]\n\"X-Frame\" = \"\"\na = \"b\"\n";
    let problems = problems_of(text, |root| {
        let groups = root.get(&LISTS).unwrap().value;
        let names: Vec<_> = groups
            .values
            .iter()
            .map(|(name, users)| (name.value.as_str(), users.items.len(), name.place.line))
            .collect();
        assert_eq!(names, [("zoe", 2, 2), ("ci", 0, 3)]);
        assert_eq!(groups.rejected, ["bad"]);
        let headers = root.get(&PAIRS).unwrap().value;
        let pairs: Vec<_> = headers
            .values
            .iter()
            .map(|(name, value)| (name.value.as_str(), value.value.as_str()))
            .collect();
        assert_eq!(pairs, [("X-Frame", ""), ("a", "b")]);
    });
    assert_eq!(
        problems,
        "4:7: lists.bad: expected a list of strings, [\"…\", \"…\"], found 1 | fix: write a list of strings, [\"…\", \"…\"]"
    );
}

#[test]
fn missing_keys_are_reported_at_the_header() {
    let missing = |text| {
        problems_of(text, |root| {
            for table in root.tables(&TABLES) {
                table.require(&LIST, "list = [\"a.example\"]");
            }
            root.require(&TABLE, "[table]");
        })
    };
    assert_eq!(
        missing("\n[[tables]]\n"),
        "1:1: missing key \"table\" | fix: add [table]\n2:1: missing key \"list\" in tables | fix: add list = [\"a.example\"]"
    );
    assert_eq!(
        missing("[table]\n[[tables]]\nlst = []\n"),
        "3:1: unknown key \"lst\" in tables | why: a misspelt key would silently do nothing | fix: did you mean \"list\"?",
        "the misspelt key is not reported as missing, too"
    );
}

#[test]
fn unknown_keys_are_reported_with_what_was_probably_meant() {
    let cases = [
        (
            "tabel = 1",
            "1:1: unknown key \"tabel\"",
            "did you mean \"table\"?",
        ),
        (
            "[table]\nCount- = 1",
            "2:1: unknown key \"Count-\" in table",
            "did you mean \"count\"?",
        ),
        (
            "[table]\nlist = 1",
            "2:1: unknown key \"list\" in table",
            "it belongs at the top of the file, above the first [table]",
        ),
        (
            "[table]\ninner = 1",
            "2:1: unknown key \"inner\" in table",
            "it belongs in a [[tables]]",
        ),
        (
            "[table]\nfoo = 1",
            "2:1: unknown key \"foo\" in table",
            "the keys here are number, count, wait",
        ),
        (
            "[[tables]]\nboolean = 1",
            "2:1: unknown key \"boolean\" in tables",
            "it belongs in inner = { boolean = … }",
        ),
        (
            "[[tables]]\n\"a\\u001bb\" = 1",
            "2:1: unknown key \"a\\u{1b}b\" in tables",
            "the keys here are text, list, files, inner",
        ),
        (
            "[[tables]]\n[[tables.inner]]\ntext = 1",
            "3:1: unknown key \"text\" in tables.inner",
            "it belongs at the top of the file, above the first [table]",
        ),
    ];
    for (text, what, remedy) in cases {
        assert_eq!(
            problems_of(text, |_| ()),
            format!("{what} | why: a misspelt key would silently do nothing | fix: {remedy}"),
        );
    }
}

#[test]
fn only_the_first_unknown_keys_of_a_table_are_listed() {
    let text: String = (0..50).map(|key| format!("k{key} = 1\n")).collect();
    let problems = problems_of(&text, |_| ());
    let problems: Vec<_> = problems.lines().collect();
    assert_eq!(problems.len(), 21);
    assert_eq!(problems[20], "21:1: and 30 more unknown keys");
    assert!(problems[0].starts_with("1:1: unknown key \"k0\""));
}
