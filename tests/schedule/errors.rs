//! Every refusal names its part, points at its column, repeats what was found and says what is allowed.

use chrono_flow::model::UnixMs;
use chrono_flow::schedule::Schedule;

use crate::parse;

#[track_caller]
fn assert_refused(text: &str, field: &str, column: usize, length: usize, message: &str) {
    let error = match parse(text, "UTC") {
        Ok(_) => panic!("`{text}` was accepted"),
        Err(error) => error,
    };
    assert_eq!((error.field(), error.column(), error.length()), (field, column, length), "`{text}`: {error}");
    assert_eq!(error.to_string(), message, "`{text}`");
    assert_eq!(error.property(), "schedule");
}

const FIELDS: &str =
    "5 fields (minute hour day-of-month month day-of-week), 6 with the second first, or a word such as @daily or @every 1h30m";
const WORDS: &str = "@yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly or @every with a period such as 1h30m";

#[test]
fn a_value_out_of_range_is_named_with_its_field_and_column() {
    for (text, field, column, length, found, allowed) in [
        ("60 * * * *", "minute", 1, 2, "60", "0-59"),
        ("60 * * * * *", "second", 1, 2, "60", "0-59"),
        ("0 0 24 * * *", "hour", 5, 2, "24", "0-23"),
        ("0 24 * * *", "hour", 3, 2, "24", "0-23"),
        ("0 1,2,25,3 * * *", "hour", 7, 2, "25", "0-23"),
        ("  0  9-25 * * *", "hour", 8, 2, "25", "0-23"),
        ("0 0 0 * *", "day-of-month", 5, 1, "0", "1-31"),
        ("0 0 32 * *", "day-of-month", 5, 2, "32", "1-31"),
        ("0 0 * 13 *", "month", 7, 2, "13", "1-12 or JAN-DEC"),
        ("0 0 * FOO *", "month", 7, 3, "FOO", "1-12 or JAN-DEC"),
        ("0 0 * * 8", "day-of-week", 9, 1, "8", "0-7 (0 and 7 are Sunday) or SUN-SAT"),
        ("0 0 * * MONDAY", "day-of-week", 9, 6, "MONDAY", "0-7 (0 and 7 are Sunday) or SUN-SAT"),
        ("0 0 * * MON-FRY", "day-of-week", 13, 3, "FRY", "0-7 (0 and 7 are Sunday) or SUN-SAT"),
        ("0 0 MON * *", "day-of-month", 5, 3, "MON", "1-31"),
        ("99999999999999999999 * * * *", "minute", 1, 20, "99999999999999999999", "0-59"),
        ("-5 * * * *", "minute", 1, 2, "-5", "0-59"),
        ("5- * * * *", "minute", 1, 2, "5-", "0-59"),
        ("1-2-3 * * * *", "minute", 3, 3, "2-3", "0-59"),
        ("+5 * * * *", "minute", 1, 2, "+5", "0-59"),
        ("*5 * * * *", "minute", 1, 2, "*5", "0-59"),
        ("٣ * * * *", "minute", 1, 1, "٣", "0-59"),
        ("ä ö * * *", "minute", 1, 1, "ä", "0-59"),
        ("0,ä,ö * * * *", "minute", 3, 1, "ä", "0-59"),
        ("0 \u{1f600} * * *", "hour", 3, 1, "\u{1f600}", "0-23"),
        ("0\u{0} * * * *", "minute", 1, 2, "0\u{fffd}", "0-59"),
        ("0 L * * *", "hour", 3, 1, "L", "0-23"),
    ] {
        assert_refused(text, field, column, length, &format!("{field}, column {column}: found `{found}`; allowed: {allowed}"));
    }
}

#[test]
fn an_empty_list_item_is_pointed_at_where_it_should_stand() {
    assert_refused("1,,2 * * * *", "minute", 3, 0, "minute, column 3: found nothing; allowed: 0-59");
    assert_refused("0 1, * * *", "hour", 5, 0, "hour, column 5: found nothing; allowed: 0-23");
    assert_refused(", * * * *", "minute", 1, 0, "minute, column 1: found nothing; allowed: 0-59");
    assert_refused("/5 * * * *", "minute", 1, 2, "minute, column 1: found `/5`; allowed: 0-59");
}

#[test]
fn a_step_that_means_nothing_is_refused_with_what_would_do_it() {
    let hint = "; for longer periods there is @every, such as @every 90m";
    assert_refused("*/90 * * * *", "minute", 3, 2, &format!("minute, column 3: found `90`; allowed: a step of 1-60{hint}"));
    assert_refused("0 */25 * * *", "hour", 5, 2, &format!("hour, column 5: found `25`; allowed: a step of 1-24{hint}"));
    assert_refused("0 0 * * */8", "day-of-week", 11, 1, &format!("day-of-week, column 11: found `8`; allowed: a step of 1-7{hint}"));
    assert_refused("*/0 * * * *", "minute", 3, 1, &format!("minute, column 3: found `0`; allowed: a step of 1-60{hint}"));
    assert_refused("*/ * * * *", "minute", 3, 0, "minute, column 3: found nothing; allowed: a step of 1-60");
    assert_refused("*/x * * * *", "minute", 3, 1, "minute, column 3: found `x`; allowed: a step of 1-60");
    assert_refused("*/5/2 * * * *", "minute", 3, 3, "minute, column 3: found `5/2`; allowed: a step of 1-60");
}

#[test]
fn day_rules_say_what_they_take() {
    let dom = "day-of-month";
    let dow = "day-of-week";
    for (text, field, column, length, found, allowed) in [
        ("0 0 31W * *", dom, 5, 3, "31W", "1W to 28W (the days of every month), or LW for the last working day"),
        ("0 0 W * *", dom, 5, 1, "W", "1W to 28W (the days of every month), or LW for the last working day"),
        ("0 0 L-31 * *", dom, 5, 4, "L-31", "L-1 to L-30 (days before the month's last)"),
        ("0 0 L-0 * *", dom, 5, 3, "L-0", "L-1 to L-30 (days before the month's last)"),
        ("0 0 L-3W * *", dom, 5, 4, "L-3W", "L-1 to L-30 (days before the month's last)"),
        ("0 0 L/2 * *", dom, 5, 3, "L/2", "L, LW, or L-1 to L-30"),
        ("0 0 15,L * *", dom, 8, 1, "L", "L, W and # only alone in their field, without a list"),
        ("0 0 LW,1 * *", dom, 5, 2, "LW", "L, W and # only alone in their field, without a list"),
        ("0 0 * * L", dow, 9, 1, "L", "L with its day, such as 5L or FRIL (the month's last Friday)"),
        ("0 0 * * 8L", dow, 9, 1, "8", "0-7 (0 and 7 are Sunday) or SUN-SAT"),
        ("0 0 * * 5#6", dow, 9, 3, "5#6", "a day with #1 to #5, such as FRI#2"),
        ("0 0 * * 5#", dow, 9, 2, "5#", "a day with #1 to #5, such as FRI#2"),
        ("0 0 * * MON#1,MON#3", dow, 9, 5, "MON#1", "L, W and # only alone in their field, without a list"),
        ("0 0 * * 1-5L", dow, 9, 3, "1-5", "0-7 (0 and 7 are Sunday) or SUN-SAT"),
    ] {
        assert_refused(text, field, column, length, &format!("{field}, column {column}: found `{found}`; allowed: {allowed}"));
    }
}

#[test]
fn h_says_what_it_takes() {
    let forms = "H, H/n or H(a-b), with a and b in the field's range";
    for (text, field, column, length, found, allowed) in [
        ("Hx * * * *", "minute", 1, 2, "Hx", forms),
        ("H() * * * *", "minute", 1, 3, "H()", forms),
        ("H(5) * * * *", "minute", 1, 4, "H(5)", forms),
        ("H(5-10 * * * *", "minute", 1, 6, "H(5-10", forms),
        ("H-5 * * * *", "minute", 1, 3, "H-5", forms),
        ("H(5-70) * * * *", "minute", 5, 2, "70", "0-59"),
        ("0 H(-) * * *", "hour", 5, 0, "", "0-23"),
    ] {
        let found = if found.is_empty() { "nothing".to_owned() } else { format!("`{found}`") };
        assert_refused(text, field, column, length, &format!("{field}, column {column}: found {found}; allowed: {allowed}"));
    }
}

#[test]
fn the_number_of_fields_and_the_words_are_checked() {
    assert_refused("", "schedule", 1, 0, &format!("schedule, column 1: found nothing; allowed: {FIELDS}"));
    assert_refused("* * * *", "schedule", 1, 7, &format!("schedule, column 1: found `* * * *`; allowed: {FIELDS}"));
    assert_refused(" 5 ", "schedule", 2, 1, &format!("schedule, column 2: found `5`; allowed: {FIELDS}"));
    // Quartz's seventh field, the year.
    assert_refused("0 0 12 1 1 ? 2030", "schedule", 14, 4, &format!("schedule, column 14: found `2030`; allowed: {FIELDS}"));
    assert_refused("0 0 12 1 1 ? 2030 x", "schedule", 14, 6, &format!("schedule, column 14: found `2030 x`; allowed: {FIELDS}"));
    assert_refused("@reboot", "schedule", 1, 7, &format!("schedule, column 1: found `@reboot`; allowed: {WORDS}"));
    assert_refused("@", "schedule", 1, 1, &format!("schedule, column 1: found `@`; allowed: {WORDS}"));
    assert_refused("TZ=UTC @fortnightly x", "schedule", 8, 12, &format!("schedule, column 8: found `@fortnightly`; allowed: {WORDS}"));
    assert_refused("@Daily 5", "schedule", 8, 1, "schedule, column 8: found `5`; allowed: nothing after @daily");
    let long = "* ".repeat(600);
    let shown = &long[..40];
    assert_refused(&long, "schedule", 1, 1200, &format!("schedule, column 1: found `{shown}`; allowed: at most 1024 bytes"));
}

#[test]
fn a_period_is_checked_unit_by_unit() {
    let allowed = "whole numbers with w, d, h, m or s, such as 1h30m or 90s; together 1s to 36525d";
    for (text, column, length, found) in [
        ("@every 5", 8, 1, "5"),
        ("@every h", 8, 1, "h"),
        ("@every 1h30", 10, 2, "30"),
        ("@every 1.5h", 8, 4, "1.5h"),
        ("@every 500ms", 12, 1, "s"),
        ("@every -1h", 8, 3, "-1h"),
        ("@every 1h 30m", 10, 4, " 30m"),
        ("@every 0s", 8, 2, "0s"),
        ("@every 0h0m", 8, 4, "0h0m"),
        ("@every 36526d", 8, 6, "36526d"),
        ("@every 36525d1s", 14, 2, "1s"),
        ("@every 99999999999999999999s", 8, 21, "99999999999999999999s"),
        ("@every 9223372036854775807w", 8, 20, "9223372036854775807w"),
        ("TZ=UTC @every 1D", 15, 2, "1D"),
    ] {
        assert_refused(text, "period", column, length, &format!("period, column {column}: found `{found}`; allowed: {allowed}"));
    }
    assert_refused("@every", "period", 1, 6, &format!("period, column 1: found `@every`; allowed: a period after @every: {allowed}"));
}

#[test]
fn days_that_never_come_are_refused() {
    let never =
        |found: &str| format!("schedule, column 5: found `{found}`; allowed: days that occur: these three fields together never match one");
    for days in ["30 2 *", "31 2,4,6,9,11 *", "30,31 FEB ?", "L-29 2 *", "L-30 2,4 *", "*/31 2 5#5", "LW * */6", "*/3 2 1#5"] {
        assert_refused(&format!("0 0 {days}"), "schedule", 5, days.chars().count(), &never(days));
    }
}

#[test]
fn zones_are_checked_where_they_were_given() {
    let allowed = "a name of the IANA time zone database, such as Europe/Berlin or UTC";
    let prefix = "time zone prefix";
    assert_refused("TZ=Mars/X 0 0 * * *", prefix, 4, 6, &format!("{prefix}, column 4: found `Mars/X`; allowed: {allowed}"));
    assert_refused(" CRON_TZ=Local @daily", prefix, 10, 5, &format!("{prefix}, column 10: found `Local`; allowed: {allowed}"));
    let form = "CRON_TZ= or TZ= with a time zone, such as CRON_TZ=Europe/Berlin";
    assert_refused("TZ= 0 0 * * *", prefix, 1, 3, &format!("{prefix}, column 1: found `TZ=`; allowed: {form}"));
    assert_refused("FOO=bar 0 0 * * *", prefix, 1, 3, &format!("{prefix}, column 1: found `FOO`; allowed: CRON_TZ= or TZ="));
    assert_refused("TZ=UTC", "schedule", 7, 0, &format!("schedule, column 7: found nothing; allowed: {FIELDS}"));
    assert_refused(
        "TZ=Asia/Tokyo 0 0 * * *",
        prefix,
        4,
        10,
        &format!("{prefix}, column 4: found `Asia/Tokyo`; allowed: UTC, as time_zone says, or only one of the two"),
    );

    for name in ["", "Mars/X", "Etc/Unknown", "UTC ", "CET-1CEST", &"x".repeat(2000)] {
        let error = Schedule::parse("@daily", Some(name), 0, UnixMs(0)).unwrap_err();
        assert_eq!((error.field(), error.property(), error.column()), ("time_zone", "time_zone", 1), "{name}");
        assert_eq!((error.length(), error.allowed()), (name.len(), allowed));
        assert!(error.found().len() <= 40);
    }
}

#[test]
fn the_first_mistake_is_the_one_reported() {
    assert_refused("61 25 * * *", "minute", 1, 2, "minute, column 1: found `61`; allowed: 0-59");
    assert_refused("0 25 32 * *", "hour", 3, 2, "hour, column 3: found `25`; allowed: 0-23");
}
