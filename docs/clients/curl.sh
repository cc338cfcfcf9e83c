# curl, not streamed.   sh curl.sh http://127.0.0.1:8400/v1 board.png
printf '{"model": "cuecard", "messages": [{"role": "user", "content": [
  {"type": "image_url", "image_url": {"url": "data:image/png;base64,%s"}},
  {"type": "text", "text": "How many red digits are there?"}]}]}' "$(base64 -w0 "$2")" |
  curl --silent --show-error --fail-with-body "$1/chat/completions" -H 'content-type: application/json' -d @-
