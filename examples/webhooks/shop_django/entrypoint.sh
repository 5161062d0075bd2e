#!/bin/sh
# What the image starts: the tables, the sender of effects beside, the web server in front.
set -e
cd "$(dirname "$0")"
python manage.py migrate --noinput --verbosity 0
python manage.py send_effects &
exec python -m uvicorn shop.asgi:application --host "${HOST:-127.0.0.1}" --port "${PORT:-8000}"
