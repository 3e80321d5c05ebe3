//! What a slice promises: every page, searched or not, leads to the whole.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn answer_of(text: &str) -> String {
    json!({ "content": [{ "type": "text", "text": text }] }).to_string()
}

fn request(arguments: Value) -> SliceRequest {
    serde_json::from_value(arguments).unwrap()
}

/// The body, the note and the next arguments.
fn read(answer: &str, arguments: Value) -> (String, String, Option<Value>) {
    match slice(answer, &request(arguments)).unwrap() {
        Slice::Text { body, note, next } => (body, note, next),
        Slice::Block(block) => panic!("a block: {block}"),
    }
}

fn refused(answer: &str, arguments: Value) -> String {
    slice(answer, &request(arguments)).unwrap_err().to_string()
}

/// Every page from the first to the last, each at most `MAX_BYTES` long.
fn pages(answer: &str, arguments: Value) -> Vec<String> {
    let mut pages = Vec::new();
    let mut next = Some(arguments);
    while let Some(arguments) = next {
        let (body, _, following) = read(answer, arguments);
        assert!(body.len() as u64 <= MAX_BYTES);
        pages.push(body);
        next = following;
    }
    pages
}

fn numbered(lines: usize) -> String {
    (1..=lines).map(|number| format!("line {number}\n")).collect()
}

const MIXED: &str = r#"{"content":[
    {"type":"text","text":"first"},
    {"type":"image","mimeType":"image/png","data":"QUJD","x": 1.0e2},
    {"type":"resource","resource":{"uri":"a:b","mimeType":"text/plain","text":"second"}},
    {"type":"resource","resource":{"uri":"a:c","blob":"QUJD"}}
],"structuredContent":{ "z": [ 1, 2 ], "a": "b c" }}"#;

#[test]
fn without_arguments_the_first_16_kib_of_all_texts_are_read() {
    let (body, note, next) = read(&answer_of(&"x".repeat(20_000)), json!({}));
    assert_eq!(body.len(), 16_384);
    assert_eq!(note, r#"bytes 0-16384 of 20000; next: {"offset":16384}"#);
    assert_eq!(next, Some(json!({ "offset": 16_384 })));
    let (body, note, next) = read(MIXED, json!({}));
    assert_eq!((body.as_str(), note.as_str(), next), ("first\nsecond", "bytes 0-12 of 12; the end", None));
}

#[test]
fn a_limit_over_the_maximum_reads_the_maximum() {
    let (body, note, _) = read(&answer_of(&"x".repeat(100_000)), json!({ "limit": 1_000_000 }));
    assert_eq!(body.len(), 65_536);
    assert_eq!(note, r#"bytes 0-65536 of 100000; next: {"limit":1000000,"offset":65536}"#);
}

#[test]
fn offsets_move_down_to_the_border_of_a_character() {
    let answer = answer_of("aé€😀");
    assert_eq!(read(&answer, json!({ "offset": 2, "limit": 1 })).0, "é");
    assert_eq!(read(&answer, json!({ "offset": 3, "limit": 4 })).0, "€");
    assert_eq!(read(&answer, json!({ "offset": 10 })).1, "bytes 10-10 of 10; the end");
    assert_eq!(read(&answer, json!({ "offset": 9 })).0, "😀");
    let error = refused(&answer, json!({ "offset": 11 }));
    assert_eq!(error, "`offset`: 11 is past the end; there are 10 bytes, so give 0 to 10");
}

#[test]
fn parts_are_read_one_by_one() {
    assert_eq!(read(MIXED, json!({ "part": 2 })).0, "second");
    assert_eq!(read(MIXED, json!({ "part": "structured" })).0, r#"{"z":[1,2],"a":"b c"}"#);
    let note = read(MIXED, json!({ "part": 0, "limit": 2 })).1;
    assert_eq!(note, r#"bytes 0-2 of 5; next: {"limit":2,"offset":2,"part":0}"#);
    let error = refused(MIXED, json!({ "part": 4 }));
    assert_eq!(
        error,
        "`part`: the answer has no part 4; its parts: part 0: text, 5 bytes, 1 line; part 1: image/png, \
         3 bytes; part 2: text/plain, 6 bytes, 1 line; part 3: resource, 3 bytes; structured: 21 bytes"
    );
    let error = refused(&answer_of("x"), json!({ "part": "structured" }));
    assert_eq!(
        error,
        "`part`: the answer has no structured content; its parts: part 0: text, 1 byte, 1 line"
    );
}

#[test]
fn a_block_that_is_not_text_comes_word_for_word() {
    match slice(MIXED, &request(json!({ "part": 1 }))).unwrap() {
        Slice::Block(block) => {
            assert_eq!(block.get(), r#"{"type":"image","mimeType":"image/png","data":"QUJD","x": 1.0e2}"#);
        }
        Slice::Text { body, .. } => panic!("{body}"),
    }
    for field in ["lines", "grep", "offset", "limit"] {
        let value = if field == "lines" || field == "grep" { json!("1") } else { json!(1) };
        let error = refused(MIXED, json!({ "part": 1, field: value }));
        assert!(error.starts_with(&format!("`{field}`: part 1 is not text; use `json_path`")), "{error}");
    }
    assert_eq!(read(MIXED, json!({ "part": 1, "json_path": "$.data" })).0, "QUJD");
}

#[test]
fn an_answer_without_text_asks_for_a_part() {
    let answer = json!({ "content": [{ "type": "image", "mimeType": "image/png", "data": "QUJD" }] });
    let error = refused(&answer.to_string(), json!({ "lines": "1-" }));
    let expected = "`part`: the answer has no text, so name one of its parts: part 0: image/png, 3 bytes";
    assert_eq!(error, expected);
    let answer = json!({ "content": [], "structuredContent": { "a": 1 } });
    assert_eq!(read(&answer.to_string(), json!({})).0, r#"{"a":1}"#);
}

#[test]
fn lines_are_read_by_range() {
    let answer = answer_of(&numbered(9000));
    let (body, note, next) = read(&answer, json!({ "lines": "1-200" }));
    assert_eq!(body, numbered(200));
    assert_eq!(note, r#"lines 1-200 of 9000; next: {"lines":"201-400"}"#);
    assert_eq!(next, Some(json!({ "lines": "201-400" })));
    assert_eq!(read(&answer, json!({ "lines": " 7 " })).0, "line 7\n");
    assert_eq!(read(&answer, json!({ "lines": "8999 - 99999999999999999999" })).0, "line 8999\nline 9000\n");
    let last = read(&answer, json!({ "lines": "-2" }));
    assert_eq!(
        (last.0.as_str(), last.1.as_str()),
        ("line 8999\nline 9000\n", "lines 8999-9000 of 9000; the end")
    );
    assert_eq!(read(&answer, json!({ "lines": "9000-" })).0, "line 9000\n");
    assert_eq!(read(&answer_of(""), json!({ "lines": "3-4" })).1, "the text is empty");
}

#[test]
fn lines_over_64_kib_are_cut_after_a_line_and_go_on_there() {
    let line = format!("{}\n", "x".repeat(999));
    let (body, note, _) = read(&answer_of(&line.repeat(300)), json!({ "lines": "101-200" }));
    assert_eq!(body.len(), 65_000);
    assert_eq!(note, r#"lines 101-165 of 300; next: {"lines":"166-200"}"#);
}

#[test]
fn a_line_over_64_kib_goes_on_inside_itself() {
    let answer = answer_of(&format!("short\n{}\nend", "x".repeat(70_000)));
    let next = read(&answer, json!({ "lines": "2-3" })).2.unwrap();
    assert_eq!(next, json!({ "lines": "2-3", "offset": 65_536 }));
    let (body, note, _) = read(&answer, next);
    assert_eq!(body.len(), 70_000 - 65_536 + "\nend".len());
    assert_eq!(note, "lines 2-3 of 3 (from byte 65536 of line 2); the end");
}

#[test]
fn bad_ranges_of_lines_say_what_to_write() {
    let answer = answer_of("a\nb\nc");
    let error = |range: &str| refused(&answer, json!({ "lines": range }));
    assert_eq!(error("5-2"), "`lines`: `5-2` ends before it starts; write FIRST-LAST, e.g. 2-5");
    assert!(error("0-2").starts_with("`lines`: `0-2` starts at line 0, but lines count from 1; write"));
    assert!(error("-0").starts_with("`lines`: `-0` asks for no line; write FIRST-LAST, e.g. -50"));
    assert_eq!(
        error("4-"),
        "`lines`: `4-` starts after the last line; there are 3, so write e.g. -50 for the last 50"
    );
    for range in ["", "-", "a-b", "1-2-3", "1,2", "--5", "+1", "1.5", "٣"] {
        assert!(error(range).contains("is no range of lines; write FIRST-LAST, e.g. 100-200"), "{range}");
    }
}

#[test]
fn grep_numbers_its_lines_and_counts_all_matches() {
    let answer = answer_of(&numbered(200));
    let (body, note, next) = read(&answer, json!({ "grep": "^line .*7$", "limit": 2 }));
    assert_eq!(body, "7: line 7\n17: line 17");
    assert_eq!(note, r#"matches 1-2 of 20; next: {"grep":"^line .*7$","limit":2,"offset":2}"#);
    assert_eq!(read(&answer, next.unwrap()).0, "27: line 27\n37: line 37");
    let (body, note, _) = read(&answer, json!({ "grep": "line 20", "offset": 1 }));
    assert_eq!((body.as_str(), note.as_str()), ("200: line 200", "matches 2-2 of 2; the end"));
    assert_eq!(read(&answer, json!({ "grep": "absent", "offset": 9 })).1, "no match in 200 lines");
    assert_eq!(read(&answer_of("a\r\nb\r\n"), json!({ "grep": "a$" })).0, "1: a");
}

#[test]
fn grep_shows_context_in_groups() {
    let answer = answer_of(&numbered(30));
    let (body, _, _) = read(&answer, json!({ "grep": " (1|3|4|20)$", "context": 1 }));
    let expected =
        "1: line 1\n2- line 2\n3: line 3\n4: line 4\n5- line 5\n--\n19- line 19\n20: line 20\n21- line 21";
    assert_eq!(body, expected);
    let (body, _, _) = read(&answer, json!({ "grep": " (3|5)$", "context": 3, "limit": 1 }));
    assert_eq!(
        body, "1- line 1\n2- line 2\n3: line 3\n4- line 4",
        "context stops where the next page starts"
    );
    let (body, _, _) = read(&answer, json!({ "grep": " (3|5)$", "context": 3, "offset": 1 }));
    assert_eq!(body, "4- line 4\n5: line 5\n6- line 6\n7- line 7\n8- line 8");
}

#[test]
fn grep_clips_long_lines_around_every_match() {
    let line = format!("{}needle{}needle{}", "é".repeat(2000), "b".repeat(3000), "c".repeat(4000));
    let (body, note, _) = read(&answer_of(&line), json!({ "grep": "needle" }));
    assert_eq!(note, "matches 1-2 of 2; the end");
    for shown in body.lines() {
        assert!(shown.starts_with("1: …") && shown.ends_with('…') && shown.contains("needle"), "{shown}");
        assert_eq!(shown.chars().count(), 500 + "1: ……".chars().count());
    }
    let (body, _, _) = read(&answer_of(&format!("{}needle", "a".repeat(5000))), json!({ "grep": "needle$" }));
    assert_eq!(body, format!("1: …{}needle", "a".repeat(494)));
}

#[test]
fn a_page_of_grep_never_exceeds_64_kib_nor_loses_a_match() {
    let text = format!("{}\n", "😀".repeat(1000)).repeat(200);
    for context in [0, 20] {
        let found = pages(&answer_of(&text), json!({ "grep": "^", "limit": 1000, "context": context }));
        let lines: Vec<_> = found.iter().flat_map(|page| page.lines()).collect();
        assert!(found.len() > 1 && lines.len() == 200);
    }
    let text = format!("needle{}{}", "\n".repeat(2), format!("{}\n", "😀".repeat(1000)).repeat(40)).repeat(8);
    let found = pages(&answer_of(&text), json!({ "grep": "needle", "context": 20 }));
    assert_eq!(found.iter().map(|page| page.matches(": needle").count()).sum::<usize>(), 8);
}

#[test]
fn bad_patterns_say_what_to_write() {
    let answer = answer_of("a");
    assert!(refused(&answer, json!({ "grep": "(" })).starts_with("`grep`: unclosed group; write a regular"));
    assert!(refused(&answer, json!({ "grep": "(?=a)" })).starts_with("`grep`: look-around"));
    assert!(refused(&answer, json!({ "grep": r"(\w{1000}){1000}" })).contains("too large once compiled"));
    let error = refused(&answer, json!({ "grep": "a".repeat(1001) }));
    assert_eq!(error, "`grep`: 1001 characters are too many; write at most 1000");
    let error = refused(&answer, json!({ "grep": "a", "offset": 2 }));
    assert_eq!(error, "`offset`: 2 is past the end; there are 1 matches, so give 0 to 1");
}

#[test]
fn json_paths_look_into_structured_content_first() {
    assert_eq!(read(MIXED, json!({ "json_path": "$.a" })).0, "b c");
    let (body, note, _) = read(MIXED, json!({ "json_path": "$.z" }));
    assert_eq!((body.as_str(), note.as_str()), ("[\n  1,\n  2\n]", "1 match; bytes 0-12 of 12; the end"));
    let (body, note, _) = read(MIXED, json!({ "json_path": "$.z[*]" }));
    assert_eq!((body.as_str(), note.as_str()), ("[\n  1,\n  2\n]", "2 matches; bytes 0-12 of 12; the end"));
    let (body, note, next) = read(MIXED, json!({ "json_path": "$.absent" }));
    assert_eq!((body.as_str(), note.as_str(), next), ("", "no match", None));
    let answer = answer_of(r#"{"items":[{"id":1},{"id":2}]}"#);
    assert_eq!(read(&answer, json!({ "json_path": "$.items[?@.id>1].id" })).0, "2");
}

#[test]
fn large_matches_of_a_json_path_are_read_by_bytes() {
    let answer = answer_of(&json!({ "text": "x".repeat(70_000) }).to_string());
    let (body, note, next) = read(&answer, json!({ "json_path": "$.text" }));
    assert_eq!(body.len(), 65_536);
    assert_eq!(note, r#"1 match; bytes 0-65536 of 70000; next: {"json_path":"$.text","offset":65536}"#);
    assert_eq!(read(&answer, next.unwrap()).0.len(), 70_000 - 65_536);
}

#[test]
fn bad_json_paths_say_what_to_do() {
    let error = refused(&answer_of("plain"), json!({ "json_path": "$.a" }));
    let start =
        "`json_path`: the text cannot be read as JSON (expected value at line 1 column 1); use `grep`";
    assert!(error.starts_with(start), "{error}");
    assert!(refused(MIXED, json!({ "part": 0, "json_path": "$" })).starts_with("`json_path`: part 0 cannot"));
    assert!(refused(MIXED, json!({ "json_path": "a.b" })).contains("write a path of RFC 9535, e.g. $.items"));
    let costly = [
        format!("${}", "[0,0]".repeat(100)),
        format!("$[?@{}.a{}]", "[?@".repeat(200), "]".repeat(200)),
        format!("${}", "..*".repeat(100)),
    ];
    for path in costly {
        assert!(
            refused(MIXED, json!({ "json_path": path })).starts_with("`json_path`: too costly"),
            "{path}"
        );
    }
    assert_eq!(read(MIXED, json!({ "json_path": "$['..,,..,,..,,[[[[[[[[[[[[\\'..']" })).1, "no match");
}

#[test]
fn selections_exclude_each_other() {
    let error = refused(MIXED, json!({ "lines": "1", "grep": "a" }));
    assert_eq!(error, "`lines` and `grep` exclude each other; give only one of `lines`, `grep`, `json_path`");
    assert!(refused(MIXED, json!({ "lines": "1", "json_path": "$" })).starts_with("`lines` and `json_path`"));
    assert!(refused(MIXED, json!({ "grep": "1", "json_path": "$" })).starts_with("`grep` and `json_path`"));
    assert!(refused(MIXED, json!({ "context": 1 })).starts_with("`context` goes with `grep` only"));
    let error = refused(MIXED, json!({ "grep": "a", "context": 21 }));
    assert_eq!(error, "`context`: 21 is too much; give 0 to 20");
    assert!(refused(MIXED, json!({ "limit": 0 })).starts_with("`limit`: 0 reads nothing; give 1 to 65536"));
    assert!(refused(MIXED, json!({ "grep": "a", "limit": 0 })).contains("give 1 to 1000"));
    assert!(serde_json::from_value::<SliceRequest>(json!({ "line": "1" })).is_err());
}

/// Texts with characters of every length and many line feeds.
fn text() -> impl Strategy<Value = String> {
    "([a-c\r\n]|[é€😀\u{0}]|\\PC){0,120}"
}

/// Valid, nearly valid and wild arguments.
fn arguments() -> impl Strategy<Value = SliceRequest> {
    let part = prop::option::of(prop_oneof![(0usize..5).prop_map(Part::Block), Just(Part::Structured)]);
    let number = || prop::option::of(prop_oneof![0u64..200, any::<u64>()]);
    let lines = prop::option::of("[0-9]{0,3}-?[0-9]{0,22}|\\PC{0,6}");
    let grep = prop::option::of("[a-c.^$*(){}|\\[\\]\\\\é]{0,8}|\\PC{0,6}");
    let path = prop::option::of("\\$[.*a-z\\[\\]?@,:'0-9]{0,12}|\\PC{0,6}");
    let context = prop::option::of(0u32..25);
    (part, number(), number(), lines, grep, context, path).prop_map(
        |(part, offset, limit, lines, grep, context, json_path)| SliceRequest {
            part,
            offset,
            limit,
            lines,
            grep,
            context,
            json_path,
        },
    )
}

proptest! {
    #[test]
    fn pages_of_bytes_restore_the_text(text in text(), limit in 1u64..40, part in any::<bool>()) {
        let mut arguments = json!({ "limit": limit });
        if part {
            arguments["part"] = json!(0);
        }
        prop_assert_eq!(pages(&answer_of(&text), arguments).concat(), text);
    }

    #[test]
    fn pages_of_lines_restore_the_text(
        text in text(),
        last in 1usize..20,
        limit in prop::option::of(1u64..40),
    ) {
        let mut arguments = json!({ "lines": format!("1-{last}") });
        if let Some(limit) = limit {
            arguments["limit"] = json!(limit);
        }
        prop_assert_eq!(pages(&answer_of(&text), arguments).concat(), text);
    }

    #[test]
    fn pages_of_matches_show_every_match_once(text in text(), limit in 1u64..5, context in 0u32..3) {
        let arguments = json!({ "grep": "[a-c]", "limit": limit, "context": context });
        let found: Vec<String> = pages(&answer_of(&text), arguments)
            .iter()
            .flat_map(|page| page.split('\n'))
            .filter(|line| line.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(": "))
            .map(str::to_owned)
            .collect();
        let numbered = text.lines().enumerate().filter(|(_, line)| line.contains(['a', 'b', 'c']));
        let expected: Vec<String> = numbered.map(|(index, line)| format!("{}: {line}", index + 1)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_arguments_panic(text in text(), request in arguments()) {
        let _ = slice(&answer_of(&text), &request);
        let _ = slice(MIXED, &request);
        let _ = slice(&text, &request);
    }

    #[test]
    fn every_selection_alone_is_sound(text in text(), mut request in arguments(), kind in 0..4) {
        request.lines = request.lines.filter(|_| kind == 0);
        request.grep = request.grep.filter(|_| kind == 1);
        request.json_path = request.json_path.filter(|_| kind == 2);
        request.context = request.context.filter(|_| request.grep.is_some());
        for answer in [answer_of(&text), MIXED.to_owned()] {
            if let Ok(Slice::Text { body, note, next }) = slice(&answer, &request) {
                prop_assert!(body.len() as u64 <= MAX_BYTES && !note.contains('\n'));
                prop_assert!(next.is_none_or(|next| serde_json::from_value::<SliceRequest>(next).is_ok()));
            }
        }
    }
}
