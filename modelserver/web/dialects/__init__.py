"""Other servers' protocols, so that their clients work with this one unchanged.

A dialect is one module here: translation and nothing else. Its views read a request in
its clients' form, ask the engine exactly as ``web.api`` does (``evaluations.evaluate``,
``backend().ask``) and write the answer in its clients' form. A view calls no other
route, reads no other route's JSON and knows tasks by ``Task.finds`` alone.

To add one:

1. Write ``web/dialects/<name>.py`` that ends in one ``Dialect`` (see ``dialect``): its
   word, the beginnings of its paths, how a problem looks to its clients, where they put
   their key besides ``Authorization`` and ``X-API-Key``, and a ``Route`` for each verb
   and path. A ``Route`` with a ``form`` has its form read, and the key in it compared,
   before its view is called with it. One that reads another kind of body says so with
   ``reads_body``.
2. Name it in ``table.DIALECTS``, and its word in the choices of the setting
   ``DIALECTS`` (``core.settings.table.DIALECTS``).
3. Add a request to each route in ``tests/support/dialect_requests.py``: the tests of
   all routes (``tests/web/test_dialects.py``) ask for one and hold token, limits,
   metrics, timings, request ids and traces by it.
4. Describe it in ``docs/dialects.md`` with a command, and run ``script/openapi``.

The rest comes by itself, from the hooks of every request: the token, limits of size
and time, ``X-Request-Id``, ``Server-Timing``, spans, log lines, the label ``dialect``
of ``modelserver_requests_total``. Errors are raised as everywhere (``core.errors``, or
werkzeug's); ``web.problems`` has them written by the dialect's ``refuse``, also those
of paths that do not exist. A path that an own route has too, such as ``/detect``, gets
a ``Route`` with ``when``; ``table`` tells the two apart, nobody else.
"""
