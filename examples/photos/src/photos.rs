//! Photos of accounts.

use bytes::Bytes;

use crate::accounts::random_id;
use crate::database::{Database, Error};

const SHOWN: i64 = 100;

pub struct Photo {
    pub id: String,
    pub caption: String,
    pub created: String,
}

pub struct Upload {
    pub caption: String,
    pub media_type: &'static str,
    pub image: Bytes,
}

/// The type of an image by how it begins, whatever the browser says.
pub fn media_type(image: &[u8]) -> Option<&'static str> {
    match image {
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some("image/png"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

pub async fn add(database: &Database, account: &str, upload: Upload) -> Result<String, Error> {
    let id = random_id();
    let Upload { caption, media_type, image } = upload;
    database
        .run(async |client| {
            let insert = "INSERT INTO photos (id, account, caption, media_type, image) \
                          VALUES ($1::text::uuid, $2::text::uuid, $3, $4, $5) \
                          ON CONFLICT (id) DO NOTHING";
            let image: &[u8] = &image;
            client.execute(insert, &[&id, &account, &caption, &media_type, &image]).await
        })
        .await?;
    Ok(id)
}

pub async fn of_account(database: &Database, account: &str) -> Result<Vec<Photo>, Error> {
    let rows = database
        .run(async |client| {
            let select = "SELECT id::text, caption, created::text FROM photos \
                          WHERE account = $1::text::uuid ORDER BY created DESC, id LIMIT $2";
            client.query(select, &[&account, &SHOWN]).await
        })
        .await?;
    let photo = |row: tokio_postgres::Row| Photo {
        id: row.get(0),
        caption: row.get(1),
        created: row.get(2),
    };
    Ok(rows.into_iter().map(photo).collect())
}

/// The image and its type, if there is such a photo.
pub async fn image(database: &Database, id: &str) -> Result<Option<(String, Vec<u8>)>, Error> {
    let found = database
        .run(async |client| {
            let select = "SELECT media_type, image FROM photos WHERE id = $1::text::uuid";
            client.query_opt(select, &[&id]).await
        })
        .await?;
    Ok(found.map(|row| (row.get(0), row.get(1))))
}

pub async fn remove(database: &Database, account: &str, id: &str) -> Result<(), Error> {
    let delete = "DELETE FROM photos WHERE id = $1::text::uuid AND account = $2::text::uuid";
    database.run(async |client| client.execute(delete, &[&id, &account]).await).await?;
    Ok(())
}
