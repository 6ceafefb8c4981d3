//! How a database is reached: passwords, TLS, several hosts.

use std::fs;

use chrono_flow::store::postgres::{PostgresConfig, PostgresStore, migrate};
use chrono_flow::store::{Store, StoreError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::postgres_server::{PASSWORD, Postgres, USER};

async fn check(config: &PostgresConfig) -> Result<(), StoreError> {
    PostgresStore::open(config)?.check().await
}

fn why(answer: Result<(), StoreError>) -> String {
    match answer {
        Err(StoreError::Unavailable(why) | StoreError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_comes_from_the_url_a_file_or_the_environment() {
    let server = Postgres::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let bare = PostgresConfig::new(&format!("postgres://{USER}@127.0.0.1:{}/postgres", server.port()));
    assert!(!why(check(&bare).await).is_empty());
    assert_eq!(check(&PostgresConfig::new(&server.url())).await, Ok(()));
    assert_eq!(check(&PostgresConfig { password: Some(PASSWORD.into()), ..bare.clone() }).await, Ok(()));
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let from_file = PostgresConfig { password_file: Some(file.clone()), password: Some("wrong".into()), ..bare.clone() };
    assert_eq!(check(&from_file).await, Ok(()), "the file goes first");
    fs::write(&file, "\n").unwrap();
    let why_empty = why(check(&from_file).await);
    assert!(why_empty.contains(file.to_str().unwrap()), "{why_empty}");

    let wrong = PostgresConfig { password: Some("sesame-open".into()), ..bare };
    let why = why(check(&wrong).await);
    assert!(why.contains("password authentication failed") && !why.contains("sesame-open"), "{why}");
    assert!(!format!("{wrong:?}").contains("sesame-open"));
    let error = format!("{:#}", migrate(&wrong).await.unwrap_err());
    assert!(error.contains("password authentication failed") && !error.contains("sesame-open"), "{error}");
}

/// A server that speaks TLS, and the folder with the authority that signed its certificate (`ca.pem`) and another (`other.pem`).
fn with_tls(names: &[&str]) -> (Postgres, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let authority = || {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (ours, other) = (authority(), authority());
    fs::write(folder.path().join("ca.pem"), ours.pem()).unwrap();
    fs::write(folder.path().join("other.pem"), other.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ours).unwrap();
    let mut server = Postgres::prepare(&["ssl=on", "ssl_cert_file=server.pem", "ssl_key_file=server.key"]);
    server.put_private("server.pem", &certificate.pem());
    server.put_private("server.key", &key.serialize_pem());
    server.start_again();
    (server, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_authority_the_connection_is_encrypted_and_verified() {
    let (server, folder) = with_tls(&["127.0.0.1"]);
    let trusting = |name: &str| PostgresConfig { ca_file: Some(folder.path().join(name)), ..PostgresConfig::new(&server.url()) };
    let store = PostgresStore::open(&trusting("ca.pem")).unwrap();
    assert_eq!(store.check().await, Ok(()));
    let raw = server.client(&server.url()).await;
    let encrypted = "SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl) FROM pg_stat_ssl
        JOIN pg_stat_activity USING (pid) WHERE application_name = 'chrono-flow'";
    let row = raw.query_one(encrypted, &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) >= 1 && row.get::<_, i64>(1) == 0, "{row:?}");

    let why_other = why(check(&trusting("other.pem")).await);
    assert!(why_other.contains("certificate"), "{why_other}");
    let why_missing = why(check(&trusting("missing.pem")).await);
    assert!(why_missing.contains("missing.pem") && why_missing.contains("--database-ca-file"), "{why_missing}");
    fs::write(folder.path().join("empty.pem"), "nothing").unwrap();
    assert!(why(check(&trusting("empty.pem")).await).contains("no certificate"));
    let off = PostgresConfig { url: format!("{}?sslmode=disable", server.url()), ..trusting("ca.pem") };
    assert!(why(check(&off).await).contains("sslmode=disable"));
    // Without an authority of its own: the system's, which don't know this server.
    let required = why(check(&PostgresConfig::new(&format!("{}?sslmode=require", server.url()))).await);
    assert!(required.contains("certificate") || required.contains("--database-ca-file"), "{required}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_host_is_refused() {
    let (server, folder) = with_tls(&["db.example"]);
    let config = PostgresConfig { ca_file: Some(folder.path().join("ca.pem")), ..PostgresConfig::new(&server.url()) };
    let why = why(check(&config).await);
    assert!(why.contains("certificate") && why.contains("127.0.0.1"), "{why}");
    let plain = PostgresConfig::new(&format!("{}?sslmode=disable", server.url()));
    assert_eq!(check(&plain).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_not_spoken_to_in_plain_text_where_tls_is_wanted() {
    let server = Postgres::start();
    let (_other, folder) = with_tls(&["127.0.0.1"]);
    let config = PostgresConfig { ca_file: Some(folder.path().join("ca.pem")), ..PostgresConfig::new(&server.url()) };
    assert!(why(check(&config).await).contains("TLS"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_hosts_the_one_that_can_be_written_is_taken() {
    let reads = Postgres::start_with(&["default_transaction_read_only=on"]);
    let writes = Postgres::start();
    let url = |first: &Postgres, second: &Postgres| {
        format!("host=127.0.0.1,127.0.0.1 port={},{} user={USER} dbname=postgres", first.port(), second.port())
    };
    let mut away = Postgres::prepare(&[]);
    for first in [&reads, &away] {
        let config = PostgresConfig { password: Some(PASSWORD.into()), ..PostgresConfig::new(&url(first, &writes)) };
        assert_eq!(check(&config).await, Ok(()));
    }
    away.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_another_encoding_is_refused() {
    let server = Postgres::start();
    let create = "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0";
    server.client(&server.url()).await.batch_execute(create).await.unwrap();
    let Err(StoreError::Refused(why)) = check(&PostgresConfig::new(&server.url_of("ascii"))).await else { panic!("it was taken") };
    assert!(why.contains("UTF8"), "{why}");
}
