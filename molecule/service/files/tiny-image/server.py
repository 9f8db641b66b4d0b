"""The smallest service: it shows the files in its working directory."""

import http.server

http.server.ThreadingHTTPServer(("", 8000), http.server.SimpleHTTPRequestHandler).serve_forever()
