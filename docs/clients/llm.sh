# Simon Willison's llm.   sh llm.sh http://127.0.0.1:8400/v1 board.png
models=$(dirname "$(llm logs path)")/extra-openai-models.yaml
printf -- '- {model_id: cuecard, model_name: cuecard, api_base: "%s", vision: true}\n' "$1" >>"$models"
llm --model cuecard --key none --no-stream --attachment "$2" 'How many red digits are there?'
