// What pgjdbc sends: prepared statements that become named after five executions,
// batches, generated keys, metadata, cursors, COPY, savepoints, binary results.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.*;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

public class JdbcClient {
    static String url;
    static String user;
    static String password;

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(what);
    }

    static void same(Object expected, Object found) {
        check(Objects.equals(expected, found), "expected " + expected + ", found " + found);
    }

    interface Body {
        void run() throws Exception;
    }

    static SQLException refused(String state, Body body) throws Exception {
        try {
            body.run();
        } catch (SQLException error) {
            same(state, error.getSQLState());
            return error;
        }
        throw new AssertionError("expected " + state);
    }

    static Connection connect(String... settings) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", user);
        properties.setProperty("password", password);
        for (int at = 0; at < settings.length; at += 2)
            properties.setProperty(settings[at], settings[at + 1]);
        return DriverManager.getConnection(url, properties);
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> values = new ArrayList<>();
        while (rows.next()) values.add(rows.getString(name));
        rows.close();
        return values;
    }

    static void schema(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE author (id bigserial PRIMARY KEY, name varchar(80) NOT NULL UNIQUE)");
            statement.execute(
                    "CREATE TABLE book (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                            + " author bigint NOT NULL REFERENCES author (id) ON DELETE CASCADE,"
                            + " title text NOT NULL, price numeric(10,2), pages int, weight float8,"
                            + " signed boolean DEFAULT false, cover bytea, published date, seen timestamptz,"
                            + " code uuid, facts jsonb)");
            statement.execute("CREATE INDEX book_title ON book (title)");
            statement.execute("CREATE VIEW dear AS SELECT title, price FROM book WHERE price > 20");
        }
    }

    // Generated keys, every type both as text and, from the sixth time on, in binary.
    static void rows(Connection connection) throws Exception {
        long author;
        try (PreparedStatement insert = connection.prepareStatement(
                "INSERT INTO author (name) VALUES (?)", Statement.RETURN_GENERATED_KEYS)) {
            insert.setString(1, "Žižek");
            same(1, insert.executeUpdate());
            ResultSet keys = insert.getGeneratedKeys();
            check(keys.next(), "a key");
            author = keys.getLong("id");
        }
        UUID code = UUID.randomUUID();
        OffsetDateTime seen = OffsetDateTime.of(2024, 2, 29, 12, 30, 15, 123456000, ZoneOffset.UTC);
        try (PreparedStatement insert = connection.prepareStatement(
                "INSERT INTO book (author, title, price, pages, weight, signed, cover, published, seen, code, facts)"
                        + " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?::jsonb)", new String[] {"id"})) {
            insert.setLong(1, author);
            insert.setString(2, "One");
            insert.setBigDecimal(3, new BigDecimal("12.50"));
            insert.setInt(4, 300);
            insert.setDouble(5, 0.1);
            insert.setBoolean(6, true);
            insert.setBytes(7, new byte[] {0, 1, (byte) 255});
            insert.setObject(8, LocalDate.of(2020, 2, 29));
            insert.setObject(9, seen);
            insert.setObject(10, code);
            insert.setString(11, "{\"a\": [1, null]}");
            same(1, insert.executeUpdate());
            ResultSet keys = insert.getGeneratedKeys();
            check(keys.next(), "a key");
            same(1, keys.getInt(1));
        }
        try (PreparedStatement select = connection.prepareStatement("SELECT * FROM book WHERE id = ?")) {
            for (int time = 0; time < 12; time++) {
                select.setInt(1, 1);
                ResultSet row = select.executeQuery();
                check(row.next(), "a row");
                same(new BigDecimal("12.50"), row.getBigDecimal("price"));
                same(300, row.getInt("pages"));
                same(0.1, row.getDouble("weight"));
                same(true, row.getBoolean("signed"));
                check(Arrays.equals(new byte[] {0, 1, (byte) 255}, row.getBytes("cover")), "bytes");
                same(LocalDate.of(2020, 2, 29), row.getObject("published", LocalDate.class));
                same(seen, row.getObject("seen", OffsetDateTime.class));
                same(Timestamp.from(seen.toInstant()), row.getTimestamp("seen"));
                same(code, row.getObject("code"));
                check(row.getString("facts").contains("\"a\""), "json");
                ResultSetMetaData told = row.getMetaData();
                same("numeric", told.getColumnTypeName(4));
                same(10, told.getPrecision(4));
                same(2, told.getScale(4));
                same("book", told.getTableName(1));
                check(told.isAutoIncrement(1), "an identity");
                same(ResultSetMetaData.columnNoNulls, told.isNullable(3));
            }
        }
        try (PreparedStatement some = connection.prepareStatement("SELECT title FROM book WHERE pages = ANY (?)")) {
            some.setArray(1, connection.createArrayOf("int4", new Object[] {1, 300}));
            same(List.of("One"), column(some.executeQuery(), "title"));
        }
        SQLException taken = refused("23505", () -> connection.createStatement()
                .execute("INSERT INTO author (name) VALUES ('Žižek')"));
        check(taken.getMessage().contains("author_name_key"), taken);
    }

    static void batches(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (PreparedStatement insert =
                connection.prepareStatement("INSERT INTO book (author, title, pages) VALUES (?, ?, ?)")) {
            for (int n = 0; n < 300; n++) {
                insert.setLong(1, 1);
                insert.setString(2, "Batch " + n);
                insert.setInt(3, n);
                insert.addBatch();
            }
            same(300, insert.executeBatch().length);
        }
        connection.commit();
        try (PreparedStatement update = connection.prepareStatement("UPDATE book SET weight = ? WHERE pages = ?")) {
            for (int n = 0; n < 50; n++) {
                update.setDouble(1, n / 3.0);
                update.setInt(2, n);
                update.addBatch();
            }
            for (int count : update.executeBatch()) same(1, count);
        }
        connection.commit();
        // With a fetch size rows come by a portal that stays open.
        try (PreparedStatement select = connection.prepareStatement("SELECT pages FROM book WHERE title LIKE 'Batch%' ORDER BY pages")) {
            select.setFetchSize(7);
            ResultSet rows = select.executeQuery();
            for (int n = 0; n < 300; n++) {
                check(rows.next(), n);
                same(n, rows.getInt(1));
            }
            check(!rows.next(), "the end");
        }
        connection.commit();
        Savepoint before = connection.setSavepoint("before");
        connection.createStatement().executeUpdate("DELETE FROM book");
        connection.rollback(before);
        refused("23502", () -> connection.createStatement().execute("INSERT INTO book (author, title) VALUES (1, NULL)"));
        refused("25P02", () -> connection.createStatement().execute("SELECT 1"));
        connection.rollback();
        connection.setAutoCommit(true);
        ResultSet count = connection.createStatement().executeQuery("SELECT count(*) FROM book");
        check(count.next() && count.getLong(1) == 301, "rows");
    }

    static void metadata(Connection connection) throws Exception {
        DatabaseMetaData told = connection.getMetaData();
        same("PostgreSQL", told.getDatabaseProductName());
        check(told.getDatabaseMajorVersion() >= 15, told.getDatabaseProductVersion());
        same(List.of("author", "book"), column(told.getTables(null, "public", "%", new String[] {"TABLE"}), "TABLE_NAME"));
        same(List.of("dear"), column(told.getTables(null, null, "%", new String[] {"VIEW"}), "TABLE_NAME"));
        ResultSet columns = told.getColumns(null, "public", "book", "%");
        Map<String, List<Object>> found = new LinkedHashMap<>();
        while (columns.next())
            found.put(columns.getString("COLUMN_NAME"), List.of(columns.getString("TYPE_NAME"),
                    columns.getInt("DATA_TYPE"), columns.getInt("COLUMN_SIZE"), columns.getInt("NULLABLE"),
                    columns.getString("IS_AUTOINCREMENT")));
        same(12, found.size());
        same(List.of("numeric", Types.NUMERIC, 10, 1, "NO"), found.get("price"));
        same(List.of("int8", Types.BIGINT, 19, 0, "NO"), found.get("author"));
        same("timestamptz", found.get("seen").get(0));
        same("YES", found.get("id").get(4));
        same(List.of("author"), column(told.getImportedKeys(null, "public", "book"), "PKTABLE_NAME"));
        same(List.of("book"), column(told.getExportedKeys(null, "public", "author"), "FKTABLE_NAME"));
        check(column(told.getSchemas(), "TABLE_SCHEM").contains("public"), "schemas");
        check(column(told.getTypeInfo(), "TYPE_NAME").containsAll(List.of("int4", "text", "numeric")), "types");
        check(column(told.getTableTypes(), "TABLE_TYPE").contains("TABLE"), "kinds of tables");
        column(told.getCatalogs(), "TABLE_CAT");
        column(told.getFunctions(null, null, "lower"), "FUNCTION_NAME");
    }

    // Keys in another order than the columns, and what indexes are made of.
    static void keys(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE shelf (number int NOT NULL, room text NOT NULL, label varchar(20) NOT NULL,"
                    + " \"Last Seen\" date, note text, PRIMARY KEY (room, number))");
            statement.execute("CREATE UNIQUE INDEX shelf_label ON shelf (label DESC)");
            statement.execute("CREATE INDEX shelf_seen ON shelf (\"Last Seen\", number DESC)");
            statement.execute("CREATE INDEX shelf_note ON shelf (lower(note), room)");
            statement.execute("CREATE TABLE loan (day date PRIMARY KEY, number int, room text,"
                    + " FOREIGN KEY (room, number) REFERENCES shelf (room, number))");
        }
        DatabaseMetaData told = connection.getMetaData();
        List<List<Object>> parts = new ArrayList<>();
        ResultSet keys = told.getPrimaryKeys(null, "public", "shelf");
        while (keys.next())
            parts.add(List.of(keys.getInt("KEY_SEQ"), keys.getString("COLUMN_NAME"), keys.getString("PK_NAME")));
        same(List.of(List.of(1, "room", "shelf_pkey"), List.of(2, "number", "shelf_pkey")), parts);
        same(List.of("id"), column(told.getPrimaryKeys(null, "public", "book"), "COLUMN_NAME"));
        same(List.of("number", "room"), column(
                told.getBestRowIdentifier(null, "public", "shelf", DatabaseMetaData.bestRowSession, true), "COLUMN_NAME"));
        same(List.of("shelf_label 1 label D unique", "shelf_pkey 1 room A unique", "shelf_pkey 2 number A unique",
                "shelf_note 1 lower(note) A", "shelf_note 2 room A", "shelf_seen 1 Last Seen A",
                "shelf_seen 2 number D"), indexes(told, "shelf", false));
        same(List.of("author_name_key 1 name A unique", "author_pkey 1 id A unique"), indexes(told, "author", true));
        ResultSet shared = told.getCrossReference(null, "public", "shelf", null, "public", "loan");
        List<String> references = new ArrayList<>();
        while (shared.next())
            references.add(shared.getInt("KEY_SEQ") + " " + shared.getString("PKCOLUMN_NAME") + " "
                    + shared.getString("FKCOLUMN_NAME") + " " + shared.getString("PK_NAME"));
        same(List.of("1 room room shelf_pkey", "2 number number shelf_pkey"), references);
    }

    static List<String> indexes(DatabaseMetaData told, String table, boolean unique) throws SQLException {
        List<String> found = new ArrayList<>();
        ResultSet rows = told.getIndexInfo(null, "public", table, unique, true);
        while (rows.next())
            found.add(rows.getString("INDEX_NAME") + " " + rows.getInt("ORDINAL_POSITION") + " "
                    + rows.getString("COLUMN_NAME") + " " + rows.getString("ASC_OR_DESC")
                    + (rows.getBoolean("NON_UNIQUE") ? "" : " unique"));
        return found;
    }

    static void copies(Connection connection) throws Exception {
        CopyManager manager = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder text = new StringBuilder();
        for (int n = 0; n < 5000; n++) text.append("1\tCopied ").append(n).append("\t\\N\n");
        same(5000L, manager.copyIn("COPY book (author, title, pages) FROM STDIN", new StringReader(text.toString())));
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        same(5000L, manager.copyOut("COPY (SELECT author, title, pages FROM book WHERE title LIKE 'Copied%' ORDER BY id) TO STDOUT", out));
        same(text.toString(), out.toString(StandardCharsets.UTF_8));
        refused("22P02", () -> manager.copyIn("COPY book (author, title) FROM STDIN", new StringReader("x\ty\n")));
        same(true, connection.isValid(5));
    }

    // Connections that only read, that repair themselves, that rewrite batches.
    static void settings() throws Exception {
        try (Connection connection = connect("readOnly", "true", "readOnlyMode", "always")) {
            check(connection.isReadOnly(), "read only");
            refused("25006", () -> connection.createStatement().executeUpdate("DELETE FROM book"));
            connection.setReadOnly(false);
            same(0, connection.createStatement().executeUpdate("DELETE FROM book WHERE id < 0"));
        }
        try (Connection connection = connect("autosave", "always")) {
            connection.setAutoCommit(false);
            connection.createStatement().executeUpdate("UPDATE book SET pages = 1 WHERE id = 1");
            refused("42703", () -> connection.createStatement().execute("SELECT nothing FROM book"));
            ResultSet row = connection.createStatement().executeQuery("SELECT pages FROM book WHERE id = 1");
            check(row.next() && row.getInt(1) == 1, "the transaction goes on");
            connection.rollback();
        }
        try (Connection connection = connect("reWriteBatchedInserts", "true", "prepareThreshold", "1")) {
            for (int time = 0; time < 3; time++) {
                PreparedStatement insert = connection.prepareStatement("INSERT INTO author (name) VALUES (?)");
                for (int n = 0; n < 130; n++) {
                    insert.setString(1, "rewritten " + time + " " + n);
                    insert.addBatch();
                }
                same(130, insert.executeBatch().length);
            }
        }
        try (Connection connection = connect("ApplicationName", "shop", "options", "-c statement_timeout=300",
                "preferQueryMode", "simple", "assumeMinServerVersion", "9.0", "stringtype", "unspecified")) {
            same("shop", connection.getClientInfo("ApplicationName"));
            refused("57014", () -> connection.createStatement()
                    .executeQuery("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"));
        }
        try (Connection connection = connect("binaryTransfer", "true", "prepareThreshold", "-1")) {
            Statement endless = connection.createStatement();
            endless.setQueryTimeout(1);
            refused("57014", () -> endless.executeQuery("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"));
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            same(Connection.TRANSACTION_SERIALIZABLE, connection.getTransactionIsolation());
            refused("0A000", () -> connection.createStatement().execute("LISTEN news"));
        }
    }

    public static void main(String[] arguments) throws Exception {
        URI address = URI.create(System.getenv("DATABASE_URL"));
        String[] login = address.getUserInfo().split(":", 2);
        user = login[0];
        password = login[1];
        String query = address.getRawQuery() == null ? "" : "?" + address.getRawQuery();
        url = "jdbc:postgresql://" + address.getHost() + ":" + address.getPort() + address.getPath() + query;
        try (Connection connection = connect()) {
            schema(connection);
            rows(connection);
            batches(connection);
            metadata(connection);
            keys(connection);
            copies(connection);
            settings();
            System.out.println("pgjdbc " + connection.getMetaData().getDriverVersion());
        }
    }
}
