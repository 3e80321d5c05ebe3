//! What a running tool asks, what it is told, and the task of the upstream that another peer can go on with.

use super::*;
use crate::job::{Input, UPSTREAM_TASK_MAX};

fn ask(attempt: u64, questions: &[&str]) -> Op {
    Op::Ask { attempt, questions: questions.iter().map(|question| json(question)).collect() }
}

fn answer(answers: &[(&str, &str)]) -> Op {
    let answers = answers.iter().map(|(key, answer)| ((*key).to_owned(), json(answer))).collect();
    Op::Answer { by: Actor::User, answers }
}

/// Key, question, answer and attempt of every input of a job.
async fn inputs(store: &dyn Store, handle: Handle) -> Vec<(String, String, Option<String>, u64)> {
    let inputs = store.inputs(handle).await.expect("read").into_iter();
    inputs
        .map(|Input { key, question, answer, attempt }| {
            (key, question.get().to_owned(), answer.map(|answer| answer.get().to_owned()), attempt)
        })
        .collect()
}

fn input(
    key: &str,
    question: &str,
    answer: Option<&str>,
    attempt: u64,
) -> (String, String, Option<String>, u64) {
    (key.to_owned(), question.to_owned(), answer.map(str::to_owned), attempt)
}

/// Questions and answers are kept word for word, in the order of asking; answers come one by one; the log holds keys alone.
pub async fn a_job_asks_and_is_told(store: Arc<dyn Store>, _clock: ManualClock) {
    let handle = create(&*store, new_job("me", None)).await;
    let bystander = create(&*store, new_job("me", None)).await;
    assert!(store.apply(handle, ask(0, &["1"])).await.is_err(), "only what runs asks");
    let attempt = claim(&*store, handle, "one").await.unwrap();
    let colour = r#"{"b":1.0, "a":"which \u00e9?"}"#;
    let job = store.apply(handle, ask(attempt, &[colour, "2"])).await.unwrap();
    assert_eq!(
        (job.status, job.questions, &job.open[..]),
        (Status::InputRequired, 2, &["q1".into(), "q2".into()][..])
    );
    let many: Vec<String> = (3..=11).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    store.apply(handle, ask(attempt, &many)).await.unwrap();
    let told = r#"{ "n": 12345678901234567890123, "é":"\u00e9" }"#;
    let job = store
        .apply(handle, answer(&[("q11", "11.0"), ("q1", told), ("q12", "0"), ("q1", "0")]))
        .await
        .unwrap();
    assert_eq!((job.status, job.open.len()), (Status::InputRequired, 9));
    let again = store.apply(handle, answer(&[("q1", "0")])).await;
    assert!(matches!(again, Err(StoreError::Refused(Refused::NotNow(_)))));
    let mut expected = vec![input("q1", colour, Some(told), 1)];
    expected.extend((2..=11).map(|number: u32| {
        let answer = (number == 11).then_some("11.0");
        input(&format!("q{number}"), &number.to_string(), answer, 1)
    }));
    assert_eq!(inputs(&*store, handle).await, expected);
    assert_eq!(store.job(handle).await.unwrap().unwrap().open, job.open, "as it is read back");
    let by = Actor::System;
    let job = store.apply(handle, Op::Withdraw { attempt, by, keys: job.open }).await.unwrap();
    assert_eq!((job.status, job.questions, job.open.len()), (Status::Working, 11, 0));
    assert_eq!(inputs(&*store, handle).await, expected, "what was withdrawn has no answer");
    assert!(
        inputs(&*store, bystander).await.is_empty() && inputs(&*store, Handle::random()).await.is_empty()
    );
    let log = store.events(handle, 2, 100).await.unwrap();
    let log: Vec<(Actor, EventKind)> = log.into_iter().map(|event| (event.actor, event.kind)).collect();
    let keys = |numbers: &[u32]| numbers.iter().map(|number| format!("q{number}")).collect::<Vec<_>>();
    let expected = [
        (Actor::Tool, EventKind::Asked { keys: keys(&[1, 2]) }),
        (Actor::Tool, EventKind::Asked { keys: keys(&[3, 4, 5, 6, 7, 8, 9, 10, 11]) }),
        (Actor::User, EventKind::Answered { keys: keys(&[11, 1]) }),
        (Actor::System, EventKind::Withdrawn { keys: keys(&[2, 3, 4, 5, 6, 7, 8, 9, 10]) }),
    ];
    assert_eq!(log, expected);
}

/// What is asked and told is bounded, and a refusal leaves nothing behind.
pub async fn what_is_too_much_to_ask_or_to_tell_is_refused(store: Arc<dyn Store>, _clock: ManualClock) {
    let handle = create(&*store, new_job("me", None)).await;
    let attempt = claim(&*store, handle, "one").await.unwrap();
    let large = format!("\"{}\"", "x".repeat(Input::BYTES_MAX));
    let is_too_much =
        |said: Result<_, StoreError>| matches!(said, Err(StoreError::Refused(Refused::TooMuch(_))));
    assert!(is_too_much(store.apply(handle, ask(attempt, &["1", &large])).await));
    assert!(is_too_much(store.apply(handle, ask(attempt, &["1"; Input::COUNT_MAX as usize + 1])).await));
    assert!(inputs(&*store, handle).await.is_empty());
    assert_eq!(store.job(handle).await.unwrap().unwrap().questions, 0);
    store.apply(handle, ask(attempt, &["1"; Input::COUNT_MAX as usize])).await.unwrap();
    assert!(is_too_much(store.apply(handle, answer(&[("q1", "1"), ("q2", &large)])).await));
    assert!(inputs(&*store, handle).await.iter().all(|(_, _, answer, _)| answer.is_none()));
    let task = "x".repeat(UPSTREAM_TASK_MAX + 1);
    assert!(is_too_much(store.apply(handle, Op::Attach { attempt, task }).await));
    assert_eq!(store.job(handle).await.unwrap().unwrap().upstream_task, None);
}

/// A job that asks is unfinished: it is listed, renewed, joined, found when its peer is gone, and settled as one that works.
pub async fn a_job_that_asks_is_at_work(store: Arc<dyn Store>, clock: ManualClock) {
    let mut new = new_job("me", Some("key"));
    new.policy.rerun = true;
    let handle = create(&*store, new).await;
    let first = claim(&*store, handle, "one").await.unwrap();
    store.apply(handle, ask(first, &["1", "2"])).await.unwrap();
    store.apply(handle, answer(&[("q1", "1")])).await.unwrap();
    let of = |statuses: &[Status]| Query { statuses: statuses.to_vec(), limit: 10, ..Query::default() };
    for (statuses, count) in
        [(&[Status::InputRequired][..], 1), (&Status::UNFINISHED, 1), (&[Status::Working], 0)]
    {
        assert_eq!(store.list(&of(statuses)).await.unwrap().len(), count, "{statuses:?}");
    }
    let scoped =
        Query { scope: Some("me".to_owned()), peer: Some("one".to_owned()), ..of(&[Status::InputRequired]) };
    assert_eq!(store.list(&scoped).await.unwrap().len(), 1);
    assert_eq!(store.joinable("me", Some("key"), None).await.unwrap().map(|job| job.handle), Some(handle));
    clock.advance(LEASE / 2);
    store.renew(&"one".to_owned(), LEASE).await.unwrap();
    clock.advance(LEASE * 3 / 4);
    assert!(store.abandoned(10).await.unwrap().is_empty(), "it was renewed");
    assert!(claim(&*store, handle, "two").await.is_err(), "a live lease protects");
    clock.advance(LEASE);
    assert_eq!(store.abandoned(10).await.unwrap().len(), 1);
    let second = claim(&*store, handle, "two").await.unwrap();
    assert_eq!(status(&*store, handle).await, Status::Working);
    assert!(store.apply(handle, answer(&[("q2", "2")])).await.is_err(), "nobody waits for that any more");
    store.apply(handle, ask(second, &["2"])).await.unwrap();
    let expected = [input("q1", "1", Some("1"), 1), input("q2", "2", None, 1), input("q3", "2", None, 2)];
    assert_eq!(inputs(&*store, handle).await, expected, "no key is used twice");
    let job = store.apply(handle, Op::Cancel { by: Actor::User }).await.unwrap();
    assert_eq!((job.status, job.cancel_requested_at.is_some()), (Status::InputRequired, true));
    store.apply(handle, completed(second, "1")).await.unwrap();
    assert!(store.job(handle).await.unwrap().unwrap().open.is_empty());
}

/// What was asked, told and attached goes with the result.
pub async fn inputs_go_when_the_result_expires(store: Arc<dyn Store>, clock: ManualClock) {
    let handle = create(&*store, new_job("me", None)).await;
    let attempt = claim(&*store, handle, "one").await.unwrap();
    store.apply(handle, ask(attempt, &["1"])).await.unwrap();
    store.apply(handle, answer(&[("q1", "1")])).await.unwrap();
    store.apply(handle, Op::Attach { attempt, task: "task 7".to_owned() }).await.unwrap();
    store.apply(handle, completed(attempt, "1")).await.unwrap();
    assert_eq!(inputs(&*store, handle).await.len(), 1, "until then they stay");
    clock.advance(TTL);
    store.expire(10).await.unwrap();
    let job = store.job(handle).await.unwrap().unwrap();
    assert_eq!((job.questions, job.upstream_task), (1, None));
    assert!(inputs(&*store, handle).await.is_empty());
}

/// A job whose work goes on at the upstream is gone on with, though running it again is not known to be safe.
pub async fn an_attached_job_is_gone_on_with(store: Arc<dyn Store>, clock: ManualClock) {
    let mut new = new_job("me", None);
    new.started_at = Some(clock.now());
    new.upstream_task = Some("early".to_owned());
    let handle = create(&*store, new).await;
    let job = store.job(handle).await.unwrap().unwrap();
    assert_eq!(job.upstream_task.as_deref(), Some("early"));
    let task = "{\"id\": \"späť\"}".to_owned();
    store.apply(handle, Op::Attach { attempt: 1, task: task.clone() }).await.unwrap();
    clock.advance(LEASE);
    let second = claim(&*store, handle, "two").await.unwrap();
    assert_eq!(store.job(handle).await.unwrap().unwrap().upstream_task, Some(task.clone()), "word for word");
    let lose = Op::Lose { attempt: second, reason: "it crashed".to_owned() };
    assert_eq!(store.apply(handle, lose).await.unwrap().status, Status::Queued);
    assert_eq!(claim(&*store, handle, "two").await.unwrap(), 3);
    let log = store.events(handle, 0, 100).await.unwrap();
    let attached = log.iter().filter(|event| event.kind == EventKind::Attached).count();
    let told = log
        .iter()
        .any(|event| format!("{event:?}").contains("early") || format!("{event:?}").contains("späť"));
    assert_eq!((attached, told), (2, false), "the log tells that, and not of what");
}
