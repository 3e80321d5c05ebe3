//! What a running tool asks and is told, and what it leaves behind that another attempt goes on with.

use super::*;
use crate::job::Input;

fn ask(attempt: u64, count: usize) -> Op {
    Op::Ask { attempt, questions: vec![json("{}"); count] }
}

fn answer(keys: &[&str]) -> Op {
    let answers = keys.iter().map(|key| ((*key).to_owned(), json("true"))).collect();
    Op::Answer { by: Actor::User, answers }
}

fn withdraw(attempt: u64, keys: &[&str]) -> Op {
    Op::Withdraw { attempt, by: Actor::Tool, keys: keys.iter().map(|key| (*key).to_owned()).collect() }
}

fn attach(attempt: u64) -> Op {
    Op::Attach { attempt, task: "task 7".to_owned() }
}

fn keys(kind: &EventKind) -> &[String] {
    match kind {
        EventKind::Asked { keys } | EventKind::Answered { keys } | EventKind::Withdrawn { keys } => keys,
        _ => &[],
    }
}

fn too_large() -> Json {
    json(&format!("\"{}\"", "x".repeat(Input::BYTES_MAX - 1)))
}

proptest! {
    #[test]
    fn a_job_requires_input_exactly_while_something_is_open(life in a_life()) {
        play(life, |life, _, _, _| {
            prop_assert_eq!(life.job.status == Status::InputRequired, !life.job.open.is_empty());
            Ok(())
        })?;
    }

    #[test]
    fn no_key_is_ever_used_twice_and_each_is_closed_once(life in a_life()) {
        play(life, |life, _, _, _| {
            let of = |is: fn(&EventKind) -> bool| -> Vec<&String> {
                life.log.iter().filter(|(_, kind)| is(kind)).flat_map(|(_, kind)| keys(kind)).collect()
            };
            let asked = of(|kind| matches!(kind, EventKind::Asked { .. }));
            let mut closed = of(|kind| !matches!(kind, EventKind::Asked { .. }));
            closed.extend(&life.job.open);
            let sets: [HashSet<&String>; 2] = [asked.iter().copied().collect(), closed.iter().copied().collect()];
            prop_assert_eq!(asked.len(), sets[0].len());
            prop_assert_eq!(closed.len(), sets[1].len());
            prop_assert_eq!(&sets[0], &sets[1]);
            prop_assert_eq!(asked.len(), life.job.questions as usize);
            Ok(())
        })?;
    }

    #[test]
    fn only_the_attempt_at_work_asks_and_not_once_it_is_being_cancelled(life in a_life()) {
        play(life, |_, before, op, said| {
            let Op::Ask { attempt, .. } = op else { return Ok(()) };
            let may = *attempt == before.attempt && is_at_work(before) && before.cancel_requested_at.is_none();
            prop_assert_eq!(said.is_ok(), may, "{:?}", said);
            Ok(())
        })?;
    }

    #[test]
    fn an_answer_closes_what_it_fits_and_nothing_else(life in a_life()) {
        play(life, |life, before, op, said| {
            let Op::Answer { answers, .. } = op else { return Ok(()) };
            let fits = |key: &&String| answers.iter().any(|(of, _)| of == *key);
            let left: Vec<String> = before.open.iter().filter(|key| !fits(key)).cloned().collect();
            let may = left.len() < before.open.len() && before.cancel_requested_at.is_none();
            prop_assert_eq!(said.is_ok(), may);
            prop_assert_eq!(&life.job.open, if may { &left } else { &before.open });
            Ok(())
        })?;
    }

    #[test]
    fn what_is_attached_stays_until_the_result_expires(life in a_life()) {
        play(life, |life, before, op, said| {
            if before.upstream_task.is_some() && life.job.expired_at.is_none() {
                prop_assert_eq!(&life.job.upstream_task, &before.upstream_task);
            }
            if matches!(op, Op::Attach { .. }) && said.is_ok() {
                prop_assert_eq!(life.job.upstream_task.as_deref(), Some("task 7"));
            }
            prop_assert!(life.job.expired_at.is_none() || life.job.upstream_task.is_none());
            Ok(())
        })?;
    }
}

#[test]
fn answers_may_come_one_by_one_and_in_any_order() {
    let mut life = Life::new(false, true);
    life.step(&ask(1, 2), 0).unwrap();
    life.step(&ask(1, 1), 0).unwrap();
    assert_eq!(life.job.open, ["q1", "q2", "q3"]);
    life.step(&answer(&["q3", "q9", "q1", "q3"]), 0).unwrap();
    assert_eq!((life.job.status, &life.job.open[..]), (Status::InputRequired, &["q2".to_owned()][..]));
    let logged = (Actor::User, EventKind::Answered { keys: vec!["q3".to_owned(), "q1".to_owned()] });
    assert_eq!(life.log.last(), Some(&logged));
    let said = life.step(&answer(&["q1", "q3"]), 0);
    assert!(matches!(said, Err(Refused::NotNow(why)) if why.contains("none of these")), "{said:?}");
    life.step(&answer(&["q2"]), 0).unwrap();
    assert_eq!(life.job.status, Status::Working);
    let said = life.step(&answer(&["q2"]), 0);
    assert!(matches!(said, Err(Refused::NotNow(why)) if why.contains("waits for no answer")), "{said:?}");
}

#[test]
fn what_is_withdrawn_is_asked_no_longer_and_what_is_not_open_is_passed_over() {
    let mut life = Life::new(false, true);
    life.step(&ask(1, 2), 0).unwrap();
    life.step(&withdraw(1, &["q2", "q7"]), 0).unwrap();
    assert_eq!((life.job.status, &life.job.open[..]), (Status::InputRequired, &["q1".to_owned()][..]));
    life.step(&withdraw(1, &["q1"]), 0).unwrap();
    assert_eq!(life.job.status, Status::Working);
    let events = life.job.events;
    life.step(&withdraw(1, &["q1"]), 0).unwrap();
    assert_eq!(life.job.events, events, "there was nothing to withdraw");
}

#[test]
fn open_questions_go_with_their_attempt_and_the_next_one_asks_under_new_keys() {
    for lost in [Op::Lose { attempt: 1, reason: "it crashed".to_owned() }, claim_by("two")] {
        let mut life = Life::new(true, true);
        life.step(&ask(1, 2), 0).unwrap();
        life.step(&answer(&["q1"]), 0).unwrap();
        life.step(&lost, 30).unwrap();
        let withdrawn = (Actor::System, EventKind::Withdrawn { keys: vec!["q2".to_owned()] });
        let place = life.log.iter().position(|entry| *entry == withdrawn).expect("the log says so");
        assert!(matches!(life.log[place + 1].1, EventKind::Retried { .. }), "and then what follows");
        if life.job.status == Status::Queued {
            life.step(&claim_by("two"), 0).unwrap();
        }
        assert_eq!((life.job.status, life.job.attempt), (Status::Working, 2));
        assert!(matches!(life.step(&ask(1, 1), 0), Err(Refused::Stale { .. })));
        life.step(&ask(2, 1), 0).unwrap();
        assert_eq!(life.job.open, ["q3"]);
    }
}

#[test]
fn a_job_that_is_being_cancelled_takes_no_answer() {
    let mut life = Life::new(false, true);
    life.step(&ask(1, 1), 0).unwrap();
    assert!(life.job.wants_attention());
    life.step(&Op::Cancel { by: Actor::User }, 0).unwrap();
    assert!(!life.job.wants_attention(), "it asks nobody any more");
    let said = life.step(&answer(&["q1"]), 0);
    assert!(matches!(said, Err(Refused::NotNow(why)) if why.contains("cancelled")), "{said:?}");
    assert!(life.step(&ask(1, 1), 0).is_err());
}

#[test]
fn a_job_asks_so_much_in_its_life_and_no_more() {
    let mut life = Life::new(false, true);
    let most = Input::COUNT_MAX as usize;
    assert!(matches!(life.step(&ask(1, most + 1), 0), Err(Refused::TooMuch(_))));
    assert!(life.step(&ask(1, 0), 0).is_err(), "no question is no question");
    life.step(&ask(1, most - 1), 0).unwrap();
    life.step(&Op::Withdraw { attempt: 1, by: Actor::System, keys: life.job.open.clone() }, 0).unwrap();
    assert!(matches!(life.step(&ask(1, 2), 0), Err(Refused::TooMuch(_))));
    life.step(&ask(1, 1), 0).unwrap();
    assert_eq!(life.job.open, [format!("q{most}")]);
    assert!(matches!(life.step(&ask(1, 1), 0), Err(Refused::TooMuch(_))));
}

#[test]
fn what_is_too_large_is_refused_and_what_just_fits_is_not() {
    let just_fits = json(&format!("\"{}\"", "x".repeat(Input::BYTES_MAX - 2)));
    let mut life = Life::new(false, true);
    let question = |question: &Json| Op::Ask { attempt: 1, questions: vec![json("1"), question.clone()] };
    assert!(matches!(life.step(&question(&too_large()), 0), Err(Refused::TooMuch(_))));
    life.step(&question(&just_fits), 0).unwrap();
    let given = |key: &str, answer: &Json| Op::Answer {
        by: Actor::User,
        answers: vec![("q1".to_owned(), json("1")), (key.to_owned(), answer.clone())],
    };
    assert!(matches!(life.step(&given("q2", &too_large()), 0), Err(Refused::TooMuch(_))));
    assert_eq!(life.job.open, ["q1", "q2"], "nothing is half done");
    life.step(&given("q9", &too_large()), 0).unwrap();
    assert_eq!(life.job.open, ["q2"]);
    life.step(&given("q2", &just_fits), 0).unwrap();
    let task = |bytes: usize| Op::Attach { attempt: 1, task: "x".repeat(bytes) };
    assert!(matches!(life.step(&task(UPSTREAM_TASK_MAX + 1), 0), Err(Refused::TooMuch(_))));
    life.step(&task(UPSTREAM_TASK_MAX), 0).unwrap();
}

#[test]
fn what_is_attached_is_gone_on_with_though_it_may_not_run_twice() {
    let mut life = Life::new(false, true);
    life.step(&attach(1), 0).unwrap();
    life.step(&attach(1), 0).unwrap();
    let told = life.log.iter().filter(|(_, kind)| *kind == EventKind::Attached).count();
    assert_eq!(told, 1, "the same again is no news");
    life.step(&claim_by("two"), 30).unwrap();
    let reason = "the peer that ran it is gone; its task goes on".to_owned();
    assert!(life.log.contains(&(Actor::System, EventKind::Retried { reason })), "{:?}", life.log);
    life.step(&Op::Lose { attempt: 2, reason: "it crashed".to_owned() }, 0).unwrap();
    assert_eq!(life.job.status, Status::Queued);
    life.step(&claim_by("two"), 0).unwrap();
    assert_eq!((life.job.attempt, life.job.upstream_task.as_deref()), (3, Some("task 7")));
    life.step(&Op::Abandon, 30).unwrap();
    let message = life.job.message.unwrap();
    assert!(message.contains("nobody was there to go on") && !message.contains("again"), "{message}");
}

#[test]
fn what_goes_on_at_the_upstream_after_a_cancellation_is_said_to() {
    let mut life = Life::new(false, true);
    life.step(&attach(1), 0).unwrap();
    life.step(&Op::Cancel { by: Actor::User }, 0).unwrap();
    assert!(life.step(&claim_by("two"), 30).is_err());
    life.step(&Op::Abandon, 0).unwrap();
    let message = life.job.message.unwrap();
    assert!(life.job.status == Status::Cancelled && message.contains("may go on"), "{message}");
}

#[test]
fn only_answers_and_questions_are_on_the_disk_before_anyone_is_told() {
    for op in [ask(1, 1), answer(&["q1"]), attach(1), withdraw(1, &["q1"])] {
        assert!(!op.may_be_lost(), "{op:?}");
    }
}

#[test]
fn a_job_that_waited_for_answers_or_was_found_again_teaches_nothing_of_its_tool() {
    let done = finish_with(1, Outcome::Completed(json("1")));
    for (op, teaches) in [(ask(1, 1), false), (attach(1), true)] {
        let mut life = Life::new(false, true);
        life.step(&op, 0).unwrap();
        life.step(&done, 9).unwrap();
        assert_eq!(crate::history::lesson(&done, &life.job).is_some(), teaches);
    }
    let mut life = Life::new(false, true);
    life.step(&attach(1), 0).unwrap();
    life.step(&claim_by("two"), 30).unwrap();
    let done = finish_with(2, Outcome::Completed(json("1")));
    life.step(&done, 9).unwrap();
    assert_eq!(crate::history::lesson(&done, &life.job), None);
}
