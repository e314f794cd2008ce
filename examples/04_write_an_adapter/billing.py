"""Orders are billed; the messages are in a SQLite file, because mqsdk.yaml says so."""

from mqsdk import App

app = App()


@app.consumer("orders", group="billing")
def bill(order: dict[str, int]) -> None:
    print(f"billed order {order['id']}: {order['cents'] / 100:.2f}")
