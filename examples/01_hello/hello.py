from mqsdk import App
app = App()
@app.consumer("hello", group="printer")
def greet(name: str) -> None:
    print("hello", name)
