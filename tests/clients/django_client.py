"""What Django 5 sends: the migrations of its own apps, and its object-relational mapper."""

import datetime
import os
import urllib.parse

import django
from django.conf import settings

url = urllib.parse.urlsplit(os.environ["DATABASE_URL"])
settings.configure(
    SECRET_KEY="only for this test",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
        "django.contrib.sessions", "django.contrib.messages",
    ],
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username,
        "PASSWORD": url.password, "HOST": url.hostname, "PORT": url.port,
    }},
)
django.setup()

from django.contrib.admin.models import CHANGE, LogEntry  # noqa: E402
from django.contrib.auth.models import Group, Permission, User  # noqa: E402
from django.contrib.contenttypes.models import ContentType  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, transaction  # noqa: E402
from django.db.models import Count, F, Q  # noqa: E402
from django.db.models.functions import Lower, TruncDate  # noqa: E402
from django.utils import timezone  # noqa: E402

call_command("migrate", verbosity=0)
call_command("migrate", verbosity=0)
call_command("migrate", check_unapplied=True, verbosity=0)
tables = connection.introspection.table_names()
assert {"auth_user", "auth_group_permissions", "django_session", "django_admin_log"} <= set(tables)
with connection.cursor() as cursor:
    constraints = connection.introspection.get_constraints(cursor, "auth_user")
    assert any(c["unique"] and c["columns"] == ["username"] for c in constraints.values())
    relations = connection.introspection.get_relations(cursor, "auth_permission")
    assert relations["content_type_id"][1] == "django_content_type", relations
assert Permission.objects.count() == 4 * ContentType.objects.count()

ada = User.objects.create_user("ada", "ada@example.org", "correct horse")
grace = User.objects.create_superuser("grace", "grace@example.org", "battery staple")
assert User.objects.get(username="ada").check_password("correct horse")
editors = Group.objects.create(name="editors")
editors.permissions.set(Permission.objects.filter(codename__startswith="change_"))
ada.groups.add(editors)
assert ada.has_perm("auth.change_user") and not ada.has_perm("auth.delete_user")
LogEntry.objects.create(
    user=grace, content_type=ContentType.objects.get_for_model(User), object_id=str(ada.pk),
    object_repr="ada", action_flag=CHANGE, change_message="[]",
)
LogEntry.objects.update(action_time=F("action_time") - datetime.timedelta(days=1))
by_day = LogEntry.objects.annotate(day=TruncDate("action_time")).values("day").annotate(n=Count("id"))
assert [row["n"] for row in by_day] == [1]
counted = User.objects.annotate(n=Count("groups")).order_by("username").values_list("username", "n")
assert list(counted) == [("ada", 1), ("grace", 0)]
named = User.objects.filter(Q(username__icontains="AD") | Q(email__endswith="@nowhere"))
assert [user.username for user in named.annotate(low=Lower("username")).select_related()] == ["ada"]
found, created = User.objects.get_or_create(username="ada")
assert found == ada and not created
try:
    with transaction.atomic():
        User.objects.create_user("ada")
    raise AssertionError("a name was taken twice")
except IntegrityError:
    pass
with transaction.atomic():
    locked = User.objects.select_for_update().get(pk=ada.pk)
    locked.last_login = timezone.now()
    locked.save()
Group.objects.bulk_create([Group(name=f"group {n}") for n in range(50)])
assert Group.objects.filter(name__startswith="group").delete()[0] == 50
session = SessionStore()
session["cart"] = ["a", "b"]
session.create()
assert SessionStore(session_key=session.session_key)["cart"] == ["a", "b"]
ada.delete()
assert User.objects.count() == 1
call_command("migrate", "admin", "zero", verbosity=0)
assert "django_admin_log" not in connection.introspection.table_names()
print("Django", django.__version__)
