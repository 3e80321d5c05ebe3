//! `rmcp` as a client, in both eras, over stdio and HTTP: of the fixture itself, and of the gateway in front of it.

mod client;
mod place;

use client::{Era, connect, drives_tasks, uses_tools};
use place::Place;

#[tokio::test]
async fn over_stdio_a_legacy_client_uses_the_fixture() {
    let place = Place::new();
    let client = connect(place.stdio(&["--tasks", "extension"]), Era::Legacy).await;
    uses_tools(&client, Era::Legacy).await;
}

#[tokio::test]
async fn over_stdio_a_modern_client_uses_the_fixture() {
    let place = Place::new();
    let client = connect(place.stdio(&["--tasks", "extension"]), Era::Modern).await;
    uses_tools(&client, Era::Modern).await;
    drives_tasks(&client).await;
}

#[tokio::test]
async fn over_http_a_legacy_client_uses_the_fixture() {
    let mut place = Place::new();
    let client = connect(place.http().await, Era::Legacy).await;
    uses_tools(&client, Era::Legacy).await;
}

#[tokio::test]
async fn over_http_a_modern_client_uses_the_fixture() {
    let mut place = Place::new();
    let client = connect(place.http().await, Era::Modern).await;
    uses_tools(&client, Era::Modern).await;
    drives_tasks(&client).await;
}

#[tokio::test]
async fn over_stdio_a_legacy_client_uses_the_fixture_behind_the_gateway() {
    let place = Place::new();
    let client = connect(place.wrapped("extension"), Era::Legacy).await;
    uses_tools(&client, Era::Legacy).await;
}

#[tokio::test]
async fn over_stdio_a_modern_client_has_tasks_of_the_gateway() {
    for tasks in ["none", "extension"] {
        let place = Place::new();
        let client = connect(place.wrapped(tasks), Era::Modern).await;
        uses_tools(&client, Era::Modern).await;
        drives_tasks(&client).await;
    }
}

#[tokio::test]
async fn over_http_clients_of_both_eras_use_one_endpoint_of_the_gateway() {
    for tasks in ["none", "extension"] {
        let mut place = Place::new();
        let url = place.served(tasks).await;
        let legacy = connect(Place::at(&url), Era::Legacy).await;
        let modern = connect(Place::at(&url), Era::Modern).await;
        tokio::join!(uses_tools(&legacy, Era::Legacy), uses_tools(&modern, Era::Modern));
        drives_tasks(&modern).await;
    }
}
