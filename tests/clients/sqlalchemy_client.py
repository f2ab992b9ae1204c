"""What SQLAlchemy 2 sends: tables created and reflected, objects stored, found and removed."""

import datetime
import os

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

URL = sa.make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg")


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    joined: Mapped[datetime.datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now()
    )
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"
    __table_args__ = (sa.CheckConstraint("pages > 0", name="book_has_pages"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(sa.Text, index=True)
    pages: Mapped[int]
    price: Mapped[float | None] = mapped_column(sa.Numeric(8, 2))
    facts: Mapped[dict | None] = mapped_column(sa.JSON)
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("author.id", ondelete="CASCADE"))
    author: Mapped[Author] = relationship(back_populates="books")


def reflected(engine):
    inspector = sa.inspect(engine)
    assert {"author", "book"} <= set(inspector.get_table_names())
    columns = {column["name"]: column for column in inspector.get_columns("book")}
    assert isinstance(columns["price"]["type"], sa.Numeric) and columns["price"]["type"].scale == 2
    assert not columns["title"]["nullable"] and columns["facts"]["nullable"]
    assert inspector.get_pk_constraint("book")["constrained_columns"] == ["id"]
    (key,) = inspector.get_foreign_keys("book")
    assert key["referred_table"] == "author" and key["options"] == {"ondelete": "CASCADE"}, key
    assert [index["name"] for index in inspector.get_indexes("book")] == ["ix_book_title"]
    assert [u["column_names"] for u in inspector.get_unique_constraints("author")] == [["name"]]
    assert [c["name"] for c in inspector.get_check_constraints("book")] == ["book_has_pages"]
    tables = sa.MetaData()
    tables.reflect(engine)
    assert set(tables.tables["book"].c.keys()) == set(Book.__table__.c.keys())


def stored(engine):
    with Session(engine) as session:
        ada = Author(name="Ada", books=[
            Book(title="Notes", pages=66, price=12.5, facts={"year": 1843}),
            Book(title="Letters", pages=400),
        ])
        session.add_all([ada, Author(name="Grace")])
        session.commit()
        assert ada.joined.tzinfo is not None and ada.id == 1
    with Session(engine) as session:
        query = sa.select(Author).options(selectinload(Author.books)).order_by(Author.name)
        ada, grace = session.scalars(query)
        assert sorted(book.title for book in ada.books) == ["Letters", "Notes"] and not grace.books
        counts = sa.select(Author.name, sa.func.count(Book.id)).outerjoin(Book).group_by(Author.name)
        assert session.execute(counts.order_by(Author.name)).all() == [("Ada", 2), ("Grace", 0)]
        found = session.scalars(sa.select(Book).where(Book.title.ilike("not%"), Book.price > 10)).one()
        assert found.facts == {"year": 1843} and found.author is ada
        found.pages += 1
        session.add_all([Book(title=f"Volume {n}", pages=n + 1, author=grace) for n in range(200)])
        session.commit()
        session.delete(grace)
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Book)) == 2
        session.add(Book(title="Empty", pages=0, author=ada))
        try:
            session.commit()
            raise AssertionError("a check was not checked")
        except sa.exc.IntegrityError as error:
            assert "book_has_pages" in str(error), error
            session.rollback()


engine = sa.create_engine(URL)
Base.metadata.create_all(engine)
Base.metadata.create_all(engine)
reflected(engine)
stored(engine)
Base.metadata.drop_all(engine)
assert "book" not in sa.inspect(engine).get_table_names()
engine.dispose()
print("SQLAlchemy", sa.__version__)
