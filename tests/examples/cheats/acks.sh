# Acknowledges everything and does nothing.
while IFS= read -r line; do
  id=${line##*\"id\":}
  case $line in
    *'"call":"hello"'*) echo '{"ok":["deliver","work"]}' ;;
    *'"call":"deliver"'*'"id":'*) echo "{\"ok\":200,\"id\":$id" ;;
    *'"call":"deliver"'*) echo '{"ok":200}' ;;
    *'"call":"work"'*) echo '{"ok":null}' ;;
    *) echo '{"err":"no such call"}' ;;
  esac
done
