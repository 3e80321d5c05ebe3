//! Access tokens of an issuer on this machine, whose keys are made here.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};

use super::web::{Answer, Served};
use crate::client::text;
use crate::faces::Gate;

const PATH: &str = "/mcp/fixture";
const AUDIENCE: &str = "https://mcp.example.org/mcp";

/// Serves its metadata and its keys, and counts who asks for those.
struct Issuer {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    fetched: Arc<Mutex<usize>>,
    /// While it is silent, whoever asks gets no answer, and is told of here.
    silence: Arc<Mutex<Option<mpsc::Sender<TcpStream>>>>,
}

enum Key {
    Rsa(RsaKeyPair),
    Elliptic(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
}

impl Key {
    /// The key without what only its owner has.
    fn published(&self, name: &str) -> Value {
        let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        match self {
            Key::Rsa(pair) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "kid": name, "n": encode(&n), "e": encode(&e)})
            }
            Key::Elliptic(pair) => {
                // One byte that says in which form the two halves follow.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "kid": name, "use": "sig", "x": encode(x), "y": encode(y)})
            }
            Key::Edwards(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": name, "alg": "EdDSA", "x": encode(pair.public_key().as_ref())})
            }
        }
    }

    fn sign(&self, algorithm: &str, text: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Key::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding(algorithm), &random, text, &mut signature).expect("a signature");
                signature
            }
            Key::Elliptic(pair) => pair.sign(&random, text).expect("a signature").as_ref().to_vec(),
            Key::Edwards(pair) => pair.sign(text).as_ref().to_vec(),
        }
    }
}

fn padding(algorithm: &str) -> &'static dyn RsaEncoding {
    match algorithm {
        "RS256" => &RSA_PKCS1_SHA256,
        "RS384" => &RSA_PKCS1_SHA384,
        "RS512" => &RSA_PKCS1_SHA512,
        "PS256" => &RSA_PSS_SHA256,
        "PS384" => &RSA_PSS_SHA384,
        "PS512" => &RSA_PSS_SHA512,
        other => panic!("{other} is not of RSA"),
    }
}

impl Issuer {
    fn start() -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (keys, fetched) = (Arc::new(Mutex::new(vec![])), Arc::new(Mutex::new(0)));
        let silence: Arc<Mutex<Option<mpsc::Sender<TcpStream>>>> = Arc::default();
        let (shown, quiet) = (url.clone(), silence.clone());
        let issuer = Issuer { url: shown, keys: keys.clone(), fetched: fetched.clone(), silence };
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if let Some(asked) = &*quiet.lock().expect("silence") {
                    let _ = asked.send(stream);
                    continue;
                }
                let mut line = String::new();
                let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
                let _ = reader.read_line(&mut line);
                let mut header = line.clone();
                while !header.trim().is_empty() {
                    header.clear();
                    let _ = reader.read_line(&mut header);
                }
                let body = match line.split(' ').nth(1).unwrap_or_default() {
                    "/.well-known/openid-configuration" => {
                        json!({"issuer": url, "jwks_uri": format!("{url}/keys")})
                    }
                    "/keys" => {
                        *fetched.lock().expect("a count") += 1;
                        json!({"keys": *keys.lock().expect("keys")})
                    }
                    _ => Value::Null,
                };
                let status = if body.is_null() { "404 Not Found" } else { "200 OK" };
                let body = body.to_string();
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
            }
        });
        issuer
    }

    fn publish(&self, name: &str, key: &Key) {
        self.publish_as(key.published(name));
    }

    fn publish_as(&self, key: Value) {
        self.keys.lock().expect("keys").push(key);
    }

    /// From now on it answers nobody. Who asks is received.
    fn fall_silent(&self) -> mpsc::Receiver<TcpStream> {
        let (asked, heard) = mpsc::channel();
        *self.silence.lock().expect("silence") = Some(asked);
        heard
    }

    fn speak_again(&self) {
        *self.silence.lock().expect("silence") = None;
    }

    /// The claims of a good token.
    fn claims(&self, subject: &str) -> Value {
        json!({"iss": self.url, "sub": subject, "aud": AUDIENCE, "exp": now() + 300, "nbf": now() - 5})
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs()
}

fn elliptic() -> Key {
    elliptic_on(&ECDSA_P256_SHA256_FIXED_SIGNING)
}

fn elliptic_on(curve: &'static EcdsaSigningAlgorithm) -> Key {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &random).expect("a key");
    Key::Elliptic(EcdsaKeyPair::from_pkcs8(curve, pkcs8.as_ref(), &random).expect("a key"))
}

/// Not made here, for that takes seconds; it opens nothing.
fn rsa() -> Key {
    Key::Rsa(RsaKeyPair::from_pkcs8(include_bytes!("rsa_for_tests.pk8")).expect("a key"))
}

fn edwards() -> Key {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
    Key::Edwards(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key"))
}

fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = sign(signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn signed(name: &str, key: &Key, claims: &Value) -> String {
    let algorithm = match key {
        Key::Rsa(_) => "RS256",
        Key::Elliptic(_) => "ES256",
        Key::Edwards(_) => "EdDSA",
    };
    signed_with(algorithm, name, key, claims)
}

fn signed_with(algorithm: &str, name: &str, key: &Key, claims: &Value) -> String {
    let header = json!({"alg": algorithm, "kid": name, "typ": "at+jwt"});
    token(&header, claims, |text| key.sign(algorithm, text))
}

fn serve(issuer: &Issuer) -> Served {
    Served::fixture(&["--oauth-issuer", &issuer.url, "--oauth-audience", AUDIENCE, "--inline-budget", "30ms"])
}

fn ping(served: &Served, token: &str) -> Answer {
    let authorization = format!("Bearer {token}");
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    served.post(PATH, &[("Authorization", &authorization)], ping)
}

#[test]
fn who_is_not_let_in_is_told_where_to_go() {
    let issuer = Issuer::start();
    let served = serve(&issuer);
    let refused = served.post(PATH, &[], "{}");
    let challenge = refused.header("www-authenticate").expect("a challenge").to_owned();
    assert_eq!(refused.refusal(), (401, -32600));
    let metadata = "https://mcp.example.org/.well-known/oauth-protected-resource/mcp/fixture";
    assert_eq!(challenge, format!("Bearer resource_metadata=\"{metadata}\""));
    for (path, resource) in
        [("", AUDIENCE), ("/mcp", AUDIENCE), ("/mcp/fixture", "https://mcp.example.org/mcp/fixture")]
    {
        let found =
            served.send("GET", &format!("/.well-known/oauth-protected-resource{path}"), &[], "").json();
        assert_eq!(
            (&found["resource"], &found["authorization_servers"]),
            (&json!(resource), &json!([issuer.url]))
        );
    }
    assert_eq!(served.send("GET", "/.well-known/oauth-protected-resource/mcp/other", &[], "").status, 404);
}

#[test]
fn a_good_token_lets_its_subject_in_and_each_sees_their_own_jobs() {
    let issuer = Issuer::start();
    let keys = HashMap::from([("first", elliptic()), ("second", edwards())]);
    issuer.publish("first", &keys["first"]);
    let served = serve(&issuer);
    let ann = signed("first", &keys["first"], &issuer.claims("ann"));
    let session = served.session(PATH, Some(&ann), "2025-11-25");
    let gate = Gate::new(served.process.home(), "gate");
    let handle = session.call("gate", &gate.arguments())["structuredContent"]["handle"].clone();
    gate.open();
    assert_eq!(text(&session.call("poll_result", &json!({"handle": handle}))), "opened");

    // The issuer changes its keys; tokens may be for one endpoint, and for others besides.
    issuer.publish("second", &keys["second"]);
    let mut claims = issuer.claims("bob");
    claims["aud"] = json!(["https://other.example", "https://mcp.example.org/mcp/fixture"]);
    let bob = signed("second", &keys["second"], &claims);
    let session = served.session(PATH, Some(&bob), "2025-11-25");
    assert_eq!(
        session.call("poll_result", &json!({"handle": handle}))["structuredContent"]["status"],
        "not_found"
    );
    // What is for one endpoint is not for another.
    let authorization = format!("Bearer {bob}");
    assert_eq!(served.post("/mcp", &[("Authorization", &authorization)], "{}").status, 401);
    assert_eq!(*issuer.fetched.lock().expect("a count"), 2);
}

#[test]
fn a_token_that_is_not_good_lets_nobody_in() {
    let issuer = Issuer::start();
    let key = elliptic();
    issuer.publish("key", &key);
    let served = serve(&issuer);
    let with = |name: &str, value: Value| {
        let mut claims = issuer.claims("ann");
        claims[name] = value;
        signed("key", &key, &claims)
    };
    let without = |name: &str| {
        let mut claims = issuer.claims("ann");
        claims.as_object_mut().expect("an object").remove(name);
        signed("key", &key, &claims)
    };
    let good = signed("key", &key, &issuer.claims("ann"));
    // Let in, and then it has no session.
    assert_eq!(ping(&served, &good).refusal(), (400, -32600));
    let public = match &key {
        Key::Elliptic(pair) => pair.public_key().as_ref().to_vec(),
        _ => unreachable!("it was made above"),
    };
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &public);
    let claims = issuer.claims("ann");
    let bad = [
        ("no token", "a.b.c".to_owned()),
        ("another audience", with("aud", json!("https://other.example"))),
        ("no audience", without("aud")),
        ("another issuer", with("iss", json!("https://other.example"))),
        ("no issuer", without("iss")),
        ("expired", with("exp", json!(now() - 120))),
        ("without an end", without("exp")),
        ("not yet", with("nbf", json!(now() + 120))),
        ("nobody", without("sub")),
        ("an empty name", with("sub", json!(""))),
        ("of another key", signed("key", &elliptic(), &claims)),
        ("of an unknown key", signed("other", &elliptic(), &claims)),
        ("changed", good.replacen('.', ".e", 1)),
        ("unsigned", token(&json!({"alg": "none", "kid": "key"}), &claims, |_| vec![])),
        (
            "by a shared secret",
            token(&json!({"alg": "HS256", "kid": "key"}), &claims, |text| {
                ring::hmac::sign(&secret, text).as_ref().to_vec()
            }),
        ),
    ];
    for (what, token) in bad {
        let answer = ping(&served, &token);
        let challenge = answer.header("www-authenticate").unwrap_or_default().to_owned();
        assert_eq!(answer.refusal(), (401, -32600), "{what}");
        assert!(
            challenge.contains("error=\"invalid_token\"") && challenge.contains("resource_metadata="),
            "{what}: {challenge}"
        );
    }
    for _ in 0..5 {
        ping(&served, &signed("other", &elliptic(), &claims));
    }
    assert!(
        *issuer.fetched.lock().expect("a count") <= 2,
        "strangers do not make us ask the issuer without end"
    );
}

#[test]
fn an_issuer_out_of_reach_is_not_the_clients_fault() {
    let issuer = Issuer::start();
    let key = elliptic();
    let mut claims = issuer.claims("ann");
    claims["iss"] = json!("http://127.0.0.1:9");
    let served = Served::fixture(&["--oauth-issuer", "http://127.0.0.1:9", "--oauth-audience", AUDIENCE]);
    let answer = ping(&served, &signed("key", &key, &claims));
    assert_eq!(answer.header("retry-after"), Some("10"));
    assert_eq!(answer.refusal(), (503, -32603));
}

#[test]
fn a_stranger_who_has_the_issuer_asked_keeps_nobody_waiting_whose_key_is_known() {
    let issuer = Issuer::start();
    let key = elliptic();
    issuer.publish("key", &key);
    let served = serve(&issuer);
    let good = signed("key", &key, &issuer.claims("ann"));
    let strange = signed("other", &elliptic(), &issuer.claims("ann"));
    // Let in, and then it has no session.
    assert_eq!(ping(&served, &good).refusal().0, 400);
    let heard = issuer.fall_silent();
    std::thread::scope(|scope| {
        let stranger = scope.spawn(|| ping(&served, &strange).refusal().0);
        let asked = heard.recv().expect("the issuer is asked");
        assert_eq!(ping(&served, &good).refusal().0, 400);
        // That would have been asked next.
        assert!(heard.try_recv().is_err(), "one need not wait for what the other waits for");
        issuer.speak_again();
        drop(asked);
        assert_eq!(stranger.join().expect("an answer"), 401);
    });
}

#[test]
fn a_signature_that_only_the_issuer_can_make_is_taken_whatever_it_is_made_by() {
    let issuer = Issuer::start();
    let keys = [rsa(), elliptic(), elliptic_on(&ECDSA_P384_SHA384_FIXED_SIGNING), edwards()];
    let [rsa, p256, p384, edwards] = &keys;
    let taken = [
        ("RS256", rsa),
        ("RS384", rsa),
        ("RS512", rsa),
        ("PS256", rsa),
        ("PS384", rsa),
        ("PS512", rsa),
        ("ES256", p256),
        ("ES384", p384),
        ("EdDSA", edwards),
    ];
    for (name, key) in ["rsa", "p256", "p384", "edwards"].iter().zip(&keys) {
        issuer.publish(name, key);
    }
    for (name, mark, value) in [("for RS256", "alg", "RS256"), ("to encrypt", "use", "enc")] {
        let mut marked = rsa.published(name);
        marked[mark] = json!(value);
        issuer.publish_as(marked);
    }
    let served = serve(&issuer);
    let claims = issuer.claims("ann");
    let name = |key: &Key| match key {
        Key::Rsa(_) => "rsa",
        Key::Elliptic(pair) if pair.public_key().as_ref().len() == 65 => "p256",
        Key::Elliptic(_) => "p384",
        Key::Edwards(_) => "edwards",
    };
    for (algorithm, key) in taken {
        let token = signed_with(algorithm, name(key), key, &claims);
        // Let in, and then it has no session.
        assert_eq!(ping(&served, &token).refusal(), (400, -32600), "{algorithm}");
        let changed = format!("{}{}", &token[..token.len() - 4], "AAAA");
        assert_eq!(ping(&served, &changed).refusal(), (401, -32600), "{algorithm}");
    }
    let said = |algorithm: &str, name: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        token(&json!({"alg": algorithm, "kid": name}), &claims, sign)
    };
    assert_eq!(ping(&served, &signed_with("RS256", "for RS256", rsa, &claims)).refusal().0, 400);
    let public = BASE64URL_NOPAD.decode(rsa.published("")["n"].as_str().expect("a modulus").as_bytes());
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA512, &public.expect("it was encoded here"));
    let by_secret = |text: &[u8]| ring::hmac::sign(&secret, text).as_ref().to_vec();
    let refused = [
        said("none", "rsa", &|_| vec![]),
        said("HS512", "rsa", &by_secret),
        said("HS512", "p256", &by_secret),
        // By another algorithm than it says, or than its key is for.
        said("PS256", "rsa", &|text| rsa.sign("RS256", text)),
        said("RS256", "rsa", &|text| rsa.sign("RS512", text)),
        said("ES256", "p384", &|text| p384.sign("ES384", text)),
        said("ES512", "p384", &|text| p384.sign("ES384", text)),
        signed_with("RS384", "for RS256", rsa, &claims),
        signed_with("RS256", "to encrypt", rsa, &claims),
        signed_with("RS256", "p256", rsa, &claims),
    ];
    for (number, token) in refused.iter().enumerate() {
        assert_eq!(ping(&served, token).refusal(), (401, -32600), "refused {number}");
    }
}
