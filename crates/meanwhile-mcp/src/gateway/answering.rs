//! `answer_job`: the agent answers what a job asks.

use std::sync::Arc;

use meanwhile_core::engine::{Answered, answer};
use meanwhile_core::{Actor, Status};
use serde::Deserialize;
use serde_json::json;

use super::Gateway;
use super::own_tools::{Wrong, not_found, parse_handle, read};
use super::reply::tool_result;
use crate::answers::shaped;
use crate::catalog::Catalog;
use crate::message::{Answer, Fields};
use crate::words::{self, POLL_RESULT, Said};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    handle: String,
    answers: Fields,
}

impl Gateway {
    pub(super) async fn answer_job(
        self: &Arc<Self>,
        arguments: &str,
        catalog: &Catalog,
    ) -> Result<Answer, Wrong> {
        let Arguments { handle: text, answers } = read(arguments)?;
        let handle = parse_handle(&text, catalog)?;
        let store = &**self.engine.store();
        let job = store.job(handle).await?.filter(|job| job.scope == self.settings.scope);
        let job = job.ok_or_else(|| not_found(&text, catalog))?;
        if job.status != Status::InputRequired {
            return Err(Wrong::Said(words::asks_nothing(&job)));
        }
        let open = self.open_inputs(&job).await?;
        let mut given = Vec::new();
        for (key, answer) in answers.into_entries() {
            let Some(input) = open.iter().find(|input| input.key == key) else {
                let keys: Vec<&str> = open.iter().map(|input| input.key.as_str()).collect();
                let why = format!("`answers/{}`: the job asks {}", words::clip(&key), keys.join(", "));
                return Err(Wrong::Arguments(why));
            };
            let answer = shaped(&input.question, answer)
                .map_err(|why| Wrong::Arguments(format!("`answers/{key}`: {why}")))?;
            given.push((key, answer));
        }
        let scope = Some(self.settings.scope.as_str());
        match answer(store, scope, handle, given, Actor::Agent).await? {
            Answered::NotFound => Err(not_found(&text, catalog)),
            Answered::Refused(job, why) => Err(Wrong::Said(Said::error(
                format!("{handle} ({}): {why}.", job.tool),
                json!({"handle": handle, "status": job.status.name()}),
            ))),
            Answered::Done(job) => {
                let poll = catalog.our_name(POLL_RESULT);
                Ok(tool_result(&words::answered(&job, &poll)))
            }
        }
    }
}
